//! How many series there may be. Who is in keeps his place; a newcomer that does not fit is refused,
//! counted, and asks again with the next reading.

/// Series of one scrape, whoever has them.
#[derive(Debug)]
pub(crate) struct Capacity {
    max: u64,
    used: u64,
    /// By [`Part`], in its last update.
    refused: [u64; 2],
    refused_before: u64,
    part: Part,
}

/// What is brought up to date on its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// What servers told.
    Objects,
    /// What was counted.
    Traffic,
}

impl Capacity {
    pub(crate) fn new(max: u64) -> Self {
        Self { max, used: 0, refused: [0; 2], refused_before: 0, part: Part::Objects }
    }

    /// A new update of a part begins: its refusals are counted anew.
    pub(crate) fn begin(&mut self, part: Part) {
        self.part = part;
        self.refused_before += std::mem::take(&mut self.refused[part as usize]);
    }

    pub(crate) fn take(&mut self, series: u64) -> bool {
        let fits = self.used + series <= self.max;
        if fits {
            self.used += series;
        } else {
            self.refuse(series);
        }
        fits
    }

    /// Counts series that another bound kept out.
    pub(crate) fn refuse(&mut self, series: u64) {
        self.refused[self.part as usize] += series;
    }

    pub(crate) fn give_back(&mut self, series: u64) {
        self.used -= series;
    }

    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// Series that had no room in the last update of each part, and in all updates together.
    pub(crate) fn refused(&self) -> (u64, u64) {
        let refused = self.refused.iter().sum();
        (refused, self.refused_before + refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_in_keeps_his_place() {
        let mut capacity = Capacity::new(10);
        capacity.begin(Part::Objects);
        assert!(capacity.take(7));
        assert!(!capacity.take(4));
        assert!(capacity.take(3));
        assert_eq!(capacity.refused(), (4, 4));
        capacity.begin(Part::Traffic);
        assert!(!capacity.take(1));
        assert_eq!(capacity.refused(), (5, 5), "the other part's still have no room");
        capacity.begin(Part::Objects);
        capacity.give_back(7);
        assert!(capacity.take(4));
        assert_eq!((capacity.used(), capacity.refused()), (7, (1, 5)));
    }
}
