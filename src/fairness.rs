//! Fair scheduling: which of many waiting items runs next, and how many run in one turn. Pure: owners take turns, so
//! that one with many items delays only itself. Never holds the items.

use std::{collections::HashMap, time::Duration};

/// Minimum number of remembered owners before those without waiting items are removed.
const SWEEP_MIN: usize = 1_024;

/// Assigns waiting items to rounds, each with at most one item per owner.
#[derive(Debug, Default)]
pub struct Rounds {
    /// The current round.
    now: u64,
    /// The last round with an item, by owner.
    last: HashMap<u64, u64>,
    sweep_at: usize,
}

impl Rounds {
    /// The round of this owner's next item. Items without an owner get the current round.
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

    /// Records that an item of this round was served.
    pub fn served(&mut self, round: u64) {
        self.now = self.now.max(round);
    }
}

/// The number of items to process in one turn, adapted so that a turn is short.
#[derive(Clone, Copy, Debug)]
pub struct Stride {
    count: usize,
    min: usize,
    max: usize,
}

/// Target duration of a turn: a shorter one lets the number grow, and one of more than twice this lets it shrink.
const MOMENT: Duration = Duration::from_millis(10);

impl Stride {
    /// Starts at `min` items, and stays between both bounds.
    #[must_use]
    pub const fn new(min: usize, max: usize) -> Self {
        Self { count: min, min, max }
    }

    /// Number of items to process in the next turn.
    #[must_use]
    pub const fn count(self) -> usize {
        self.count
    }

    /// Records that processing `count` items took this time.
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
    fn an_owner_with_many_items_delays_only_itself() {
        let mut rounds = Rounds::default();
        let greedy: Vec<u64> = (0..5).map(|_| rounds.next(Some(1))).collect();
        assert_eq!(greedy, [0, 1, 2, 3, 4]);
        assert_eq!((rounds.next(Some(2)), rounds.next(Some(2)), rounds.next(None)), (0, 1, 0));
        rounds.served(2);
        assert_eq!((rounds.next(Some(3)), rounds.next(Some(2)), rounds.next(Some(1)), rounds.next(None)), (2, 2, 5, 2));
        rounds.served(1);
        assert_eq!(rounds.next(None), 2, "earlier rounds are never used again");
    }

    #[test]
    fn owners_without_items_are_removed() {
        let mut rounds = Rounds::default();
        for owner in 0..10_000 {
            rounds.next(Some(owner));
            rounds.served(owner);
        }
        assert!(rounds.last.len() <= SWEEP_MIN, "{}", rounds.last.len());
    }

    #[test]
    fn the_number_of_items_adapts_to_the_duration_of_a_turn() {
        let (mut stride, ms) = (Stride::new(50, 1_000), Duration::from_millis);
        stride.took(50, ms(1));
        stride.took(3, ms(1));
        assert_eq!(stride.count(), 100, "a short turn does not change the number for longer ones");
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
