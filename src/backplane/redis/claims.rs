//! Acknowledged ids that wait to be verified after the server changed. Pure.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use tickgate_wire::model::{Class, StreamId, Topic, TopicRule};

/// Greater than any epoch, and a whole number in Lua as well.
const EPOCH_MAX: u64 = 1 << 53;

/// An acknowledged id that a new server may have lost.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) topic: Topic,
    pub(super) id: StreamId,
    /// The marker that reports its loss, where that is known already: the server may have lost this as well.
    pub(super) marker: Option<StreamId>,
    /// Entries of this epoch, or of an earlier one, prove that what they follow was there.
    pub(super) proven: u64,
    pub(super) rule: Arc<TopicRule>,
}

impl Claim {
    /// The epoch that the script is given as proof. Of a value only the newest is owed, and old ones are trimmed at once:
    /// there, an entry of any epoch proves enough.
    pub(super) fn proof(&self) -> u64 {
        if self.rule.class == Class::State { EPOCH_MAX } else { self.proven }
    }
}

/// Claims that wait: the greatest id per topic and epoch, since a server loses its newest writes. An epoch that a later
/// server began proves nothing of the one before it.
#[derive(Debug, Default)]
pub(super) struct Claims {
    waiting: HashMap<(Topic, u64), Claim>,
}

impl Claims {
    pub(super) fn add(&mut self, claims: impl IntoIterator<Item = Claim>) {
        for claim in claims {
            match self.waiting.entry((claim.topic.clone(), claim.id.epoch)) {
                Entry::Vacant(entry) => drop(entry.insert(claim)),
                Entry::Occupied(mut entry) if (entry.get().id, entry.get().marker) < (claim.id, claim.marker) => {
                    drop(entry.insert(claim));
                }
                Entry::Occupied(_) => {}
            }
        }
    }

    pub(super) fn take(&mut self) -> Vec<Claim> {
        self.waiting.drain().map(|(_, claim)| claim).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backplane::redis::for_tests::claim;

    #[test]
    fn what_an_earlier_server_acknowledged_waits_beside_what_a_later_one_did() {
        let id = StreamId::new;
        let mut claims = Claims::default();
        claims.add([id(5, 8), id(6, 3)].map(|id| claim(id, None)));
        claims.add([id(5, 9), id(6, 2)].map(|id| claim(id, None)));
        let mut waiting: Vec<_> = claims.take().iter().map(|claim| claim.id).collect();
        waiting.sort_unstable();
        assert_eq!(waiting, [id(5, 9), id(6, 3)]);
        assert!(claims.is_empty());
    }
}
