//! Who is next where many things wait for few, and how much of it is done in one go. Pure: what belongs together takes
//! turns with the rest, however much of it there is, so that whoever brings much waits for himself. Never holds what waits.

use std::{collections::HashMap, time::Duration};

/// Owners whose last rounds are remembered, before those are looked for that have nothing waiting.
const SWEEP_MIN: usize = 1_024;

/// Rounds: of each owner one thing waits in each.
#[derive(Debug, Default)]
pub struct Rounds {
    /// The round that is served.
    now: u64,
    /// The last round in which something of an owner waits.
    last: HashMap<u64, u64>,
    sweep_at: usize,
}

impl Rounds {
    /// The round in which the next thing of this owner waits. What belongs to nobody waits in the present one.
    pub fn next(&mut self, owner: Option<u64>) -> u64 {
        let Some(owner) = owner else { return self.now };
        if self.last.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.last.retain(|_, last| *last >= self.now);
            self.sweep_at = self.last.len() * 2;
        }
        let round = self.last.get(&owner).map_or(self.now, |last| self.now.max(last + 1));
        self.last.insert(owner, round);
        round
    }

    /// Something of this round was served.
    pub fn served(&mut self, round: u64) {
        self.now = self.now.max(round);
    }
}

/// How many things are done in one go: as many as take a moment, so that the next one to come does not wait for long.
#[derive(Clone, Copy, Debug)]
pub struct Stride {
    count: usize,
    min: usize,
    max: usize,
}

/// Less than this, and more are taken the next time; more than twice this, and fewer.
const MOMENT: Duration = Duration::from_millis(10);

impl Stride {
    #[must_use]
    pub const fn new(min: usize, max: usize) -> Self {
        Self { count: min, min, max }
    }

    #[must_use]
    pub const fn count(self) -> usize {
        self.count
    }

    /// So many were done in this time.
    pub fn took(&mut self, count: usize, time: Duration) {
        if time > MOMENT * 2 {
            self.count = (self.count / 2).max(self.min);
        } else if time < MOMENT && count >= self.count {
            self.count = (self.count * 2).min(self.max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_brings_much_waits_for_himself() {
        let mut rounds = Rounds::default();
        let greedy: Vec<u64> = (0..5).map(|_| rounds.next(Some(1))).collect();
        assert_eq!(greedy, [0, 1, 2, 3, 4]);
        assert_eq!((rounds.next(Some(2)), rounds.next(Some(2)), rounds.next(None)), (0, 1, 0));
        rounds.served(2);
        assert_eq!((rounds.next(Some(3)), rounds.next(Some(2)), rounds.next(Some(1)), rounds.next(None)), (2, 2, 5, 2));
        rounds.served(1);
        assert_eq!(rounds.next(None), 2, "rounds are never gone back to");
    }

    #[test]
    fn nothing_is_remembered_of_those_who_left() {
        let mut rounds = Rounds::default();
        for owner in 0..10_000 {
            rounds.next(Some(owner));
            rounds.served(owner);
        }
        assert!(rounds.last.len() <= SWEEP_MIN, "{}", rounds.last.len());
    }

    #[test]
    fn a_stride_is_as_long_as_a_moment() {
        let (mut stride, ms) = (Stride::new(50, 1_000), Duration::from_millis);
        stride.took(50, ms(1));
        stride.took(3, ms(1));
        assert_eq!(stride.count(), 100, "a short one says nothing of longer ones");
        for _ in 0..9 {
            stride.took(1_000, ms(9));
        }
        assert_eq!(stride.count(), 1_000);
        stride.took(1_000, ms(15));
        stride.took(1_000, ms(30));
        assert_eq!(stride.count(), 500);
        for _ in 0..9 {
            stride.took(100, ms(900));
        }
        assert_eq!(stride.count(), 50);
    }
}
