//! A vector that readers are lent without a copy. It is copied when it changes while one of them still
//! has it, and only then: a text that is read at leisure never sees half of an update, and whoever
//! updates never waits for it.

use std::sync::Arc;

/// The vector, for its owner.
#[derive(Debug)]
pub(super) enum Lendable<T> {
    /// Nobody else has it.
    Own(Vec<T>),
    /// Readers had it since it last changed.
    Lent(Arc<Vec<T>>),
}

impl<T> Default for Lendable<T> {
    fn default() -> Self {
        Self::Own(Vec::new())
    }
}

impl<T> Lendable<T> {
    /// As it is now, for as long as the reader likes.
    pub(super) fn lend(&mut self) -> Arc<Vec<T>> {
        let lent = match self {
            Self::Own(own) => Arc::new(std::mem::take(own)),
            Self::Lent(lent) => return lent.clone(),
        };
        *self = Self::Lent(lent.clone());
        lent
    }

    pub(super) fn as_slice(&self) -> &[T] {
        match self {
            Self::Own(own) => own,
            Self::Lent(lent) => lent,
        }
    }
}

impl<T: Clone> Lendable<T> {
    /// To be changed.
    #[inline]
    pub(super) fn own(&mut self) -> &mut Vec<T> {
        if let Self::Lent(lent) = self {
            let own = take_back(std::mem::take(lent));
            *self = Self::Own(own);
        }
        match self {
            Self::Own(own) => own,
            Self::Lent(_) => unreachable!("it was taken back"),
        }
    }
}

#[cold]
fn take_back<T: Clone>(lent: Arc<Vec<T>>) -> Vec<T> {
    Arc::try_unwrap(lent).unwrap_or_else(|lent| (*lent).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_keeps_what_was_lent_and_nothing_is_copied_without_need() {
        let mut numbers = Lendable::default();
        numbers.own().extend([1, 2]);
        let place = numbers.as_slice().as_ptr();
        let (early, same) = (numbers.lend(), numbers.lend());
        numbers.own().push(3);
        let late = numbers.lend();
        assert_eq!((&early[..], &same[..], &late[..]), (&[1, 2][..], &[1, 2][..], &[1, 2, 3][..]));
        assert_eq!(early.as_ptr(), place);
        drop((early, same));
        let place = late.as_ptr();
        drop(late);
        numbers.own()[0] = 0;
        assert_eq!((numbers.as_slice().as_ptr(), numbers.as_slice()), (place, &[0, 2, 3][..]));
    }
}
