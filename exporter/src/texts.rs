//! Keeps equal texts once: a room's name and a transport's id come with every object that names them,
//! each time in memory of its own, and so do labels that begin alike. Shared, they take a fraction of
//! it and compare by their pointers.

use std::sync::Arc;

use foldhash::HashSet;

/// Texts that something may still hold.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    known: HashSet<Arc<str>>,
    /// How many there are when those that nobody else holds are looked for again.
    full: usize,
}

/// Fewer are not worth a look.
const FEW: usize = 1024;

impl Texts {
    /// Replaces each text by the equal one that came first.
    pub(crate) fn share_all<'a>(
        &mut self,
        texts: impl IntoIterator<Item = Option<&'a mut Arc<str>>>,
    ) {
        texts.into_iter().flatten().for_each(|text| self.share(text));
    }

    /// Replaces the text by the equal one that came first.
    pub(crate) fn share(&mut self, text: &mut Arc<str>) {
        if let Some(known) = self.known.get(text) {
            text.clone_from(known);
            return;
        }
        if self.known.len() >= self.full.max(FEW) {
            self.forget_unused();
        }
        self.known.insert(text.clone());
    }

    /// How many are known.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Forgets what nobody holds. Twice as many as are in use are let come before this is done unasked,
    /// so that it costs each newcomer a constant share.
    pub(crate) fn forget_unused(&mut self) {
        self.known.retain(|text| Arc::strong_count(text) > 1);
        self.known.shrink_to(2 * self.known.len());
        self.full = 2 * self.known.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_become_one() {
        let mut texts = Texts::default();
        let (mut one, mut other): (Arc<str>, Arc<str>) = ("room".into(), "room".into());
        texts.share_all([Some(&mut one), None, Some(&mut other)]);
        assert!(Arc::ptr_eq(&one, &other));
    }

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let mut texts = Texts::default();
        let mut kept: Vec<Arc<str>> = Vec::new();
        for number in 0..100 * FEW {
            let mut text: Arc<str> = number.to_string().into();
            texts.share(&mut text);
            if number % 100 == 0 {
                kept.push(text);
            }
        }
        assert!(texts.known.len() <= 2 * kept.len().max(FEW));
        assert!(kept.iter().all(|text| texts.known.contains(text)));
    }
}
