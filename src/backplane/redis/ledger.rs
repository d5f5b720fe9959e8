//! What this replica knows about the topics that it publishes to on one server: name, epoch, last acknowledged id.
//! After a change of server it lists the ids that must be verified. Pure and bounded; dropped entries are known to be
//! dropped.

use std::{
    collections::{HashMap, hash_map::Entry},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use tickgate_wire::model::{StreamId, Topic};

use crate::redis_link::Keys;

/// Maximum number of remembered topics. At half of it, those not published to since the last time are dropped.
const TOPICS_MAX: usize = 131_072;
/// A stream that was published to within this part of its lifetime is not about to expire.
const FRESH_FRACTION: u32 = 2;

/// The accounts of the topics, in two halves: those used recently, and those not used since the last rotation.
#[derive(Debug, Default)]
pub(super) struct TopicLedger {
    young: HashMap<Topic, TopicAccount>,
    old: HashMap<Topic, TopicAccount>,
    /// The last answered beat.
    beat: u64,
    /// The greatest beat of an acknowledgement that was dropped.
    horizon: Option<u64>,
    /// The current generation.
    generation: u64,
}

/// The account of one topic.
#[derive(Debug)]
pub(super) struct TopicAccount {
    /// The name of its stream and channel.
    pub(super) stream: Arc<str>,
    /// The epoch of the last id received in this generation; 0 if none.
    pub(super) epoch: u64,
    /// The last acknowledged id, and the beat that had been answered by then.
    acknowledged: Option<(StreamId, u64)>,
    /// The number of the last stored publication, in the order of submission.
    stored: u64,
    published: Option<Instant>,
}

impl TopicLedger {
    /// The account of the topic, created if necessary.
    pub(super) fn open(&mut self, keys: &Keys, topic: &Topic) -> &mut TopicAccount {
        if self.young.len() >= TOPICS_MAX / 2 {
            let dropped = mem::replace(&mut self.old, mem::take(&mut self.young));
            let beats = dropped.values().filter_map(|account| account.acknowledged.map(|(_, beat)| beat));
            self.horizon = self.horizon.max(beats.max());
        }
        match self.young.entry(topic.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                entry.insert(self.old.remove(topic).unwrap_or_else(|| TopicAccount::new(keys, topic)))
            }
        }
    }

    /// The account of the topic, if it exists.
    fn get(&mut self, topic: &Topic) -> Option<&mut TopicAccount> {
        self.young.get_mut(topic).or_else(|| self.old.get_mut(topic))
    }

    /// Records an answered beat.
    pub(super) fn answered(&mut self, beat: u64) {
        self.beat = beat;
    }

    /// Starts another generation: no epoch of an earlier one continues.
    pub(super) fn begin(&mut self, generation: u64) {
        if mem::replace(&mut self.generation, generation) != generation {
            self.young.values_mut().chain(self.old.values_mut()).for_each(|account| account.epoch = 0);
        }
    }

    /// The acknowledged ids that may be missing from a dataset whose last beat of this replica is `beat` (`None`: it
    /// has none). `None` if some were dropped.
    pub(super) fn claims(&self, beat: Option<u64>) -> Option<Vec<(Topic, StreamId)>> {
        // An id acknowledged before a beat was answered may have been stored after that beat, but not after the next
        // but one was sent.
        let lacks = |acknowledged: u64| beat.is_none_or(|beat| beat < acknowledged + 2);
        if self.horizon.is_some_and(lacks) {
            return None;
        }
        let accounts = self.young.iter().chain(&self.old);
        let claims = accounts.filter_map(|(topic, account)| {
            account.acknowledged.filter(|(_, beat)| lacks(*beat)).map(|(id, _)| (topic.clone(), id))
        });
        Some(claims.collect())
    }

    /// Records an acknowledged id, whichever replica stored it.
    pub(super) fn acknowledge(&mut self, keys: &Keys, topic: &Topic, id: StreamId) {
        let (beat, generation) = (self.beat, self.generation);
        let account = self.open(keys, topic);
        if id.epoch >= generation {
            account.epoch = account.epoch.max(id.epoch);
        }
        if account.acknowledged.is_none_or(|(acknowledged, _)| acknowledged <= id) {
            account.acknowledged = Some((id, beat));
        }
    }

    /// Records a publication that this replica stored.
    pub(super) fn store(&mut self, topic: &Topic, number: u64) {
        if let Some(account) = self.get(topic) {
            account.stored = account.stored.max(number);
        }
    }

    /// Records a failed publication: the next one verifies everything again.
    pub(super) fn fail(&mut self, topic: &Topic) {
        if let Some(account) = self.get(topic) {
            (account.published, account.epoch) = (None, 0);
        }
    }

    /// Whether a publication submitted later is already stored.
    pub(super) fn is_overtaken(&mut self, topic: &Topic, number: u64) -> bool {
        self.get(topic).is_some_and(|account| account.stored > number)
    }
}

impl TopicAccount {
    fn new(keys: &Keys, topic: &Topic) -> Self {
        Self { stream: keys.stream(topic).into(), epoch: 0, acknowledged: None, stored: 0, published: None }
    }

    /// Whether the stream may be about to expire, so that this publication must extend its lifetime.
    pub(super) fn must_keep(&mut self, now: Instant, ttl: Duration) -> bool {
        let last = self.published.replace(now);
        !ttl.is_zero() && last.is_none_or(|last| now.duration_since(last) >= ttl / FRESH_FRACTION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(number: usize) -> Topic {
        Topic::public(&format!("t{number}")).unwrap()
    }

    fn claimed(ledger: &TopicLedger, beat: Option<u64>) -> Vec<StreamId> {
        ledger.claims(beat).unwrap().into_iter().map(|(_, id)| id).collect()
    }

    #[test]
    fn it_is_bounded_keeps_what_is_used_and_knows_what_it_dropped() {
        let (keys, mut ledger) = (Keys::new("x:"), TopicLedger::default());
        ledger.answered(3);
        for number in 0..TOPICS_MAX * 2 {
            ledger.acknowledge(&keys, &topic(number), StreamId::new(5, 0));
            ledger.open(&keys, &topic(0)).epoch = 7;
        }
        assert!(ledger.young.len() + ledger.old.len() <= TOPICS_MAX);
        assert_eq!(ledger.open(&keys, &topic(0)).epoch, 7);
        assert_eq!(ledger.claims(Some(4)), None, "dropped ids may be lost");
        assert!(ledger.claims(Some(5)).is_some_and(|claims| claims.is_empty()));
    }

    #[test]
    fn only_ids_that_no_later_beat_proves_have_to_be_verified() {
        let (keys, mut ledger) = (Keys::new("x:"), TopicLedger::default());
        ledger.begin(5);
        ledger.answered(7);
        ledger.acknowledge(&keys, &topic(1), StreamId::new(5, 3));
        ledger.acknowledge(&keys, &topic(1), StreamId::new(5, 2));
        assert_eq!(claimed(&ledger, Some(8)), [StreamId::new(5, 3)]);
        assert!(claimed(&ledger, Some(9)).is_empty());
        assert_eq!(claimed(&ledger, None), [StreamId::new(5, 3)]);
    }

    #[test]
    fn no_epoch_continues_in_another_generation() {
        let (keys, mut ledger) = (Keys::new("x:"), TopicLedger::default());
        ledger.begin(5);
        ledger.acknowledge(&keys, &topic(1), StreamId::new(6, 3));
        assert_eq!(ledger.open(&keys, &topic(1)).epoch, 6);
        ledger.begin(9);
        assert_eq!(ledger.open(&keys, &topic(1)).epoch, 0);
        ledger.acknowledge(&keys, &topic(1), StreamId::new(6, 4));
        assert_eq!(ledger.open(&keys, &topic(1)).epoch, 0, "a duplicate of an earlier publication");
    }

    #[test]
    fn the_lifetime_of_a_stream_that_was_quiet_for_half_of_it_is_extended() {
        let (keys, ttl, now) = (Keys::new("x:"), Duration::from_secs(80), Instant::now());
        let mut ledger = TopicLedger::default();
        let account = ledger.open(&keys, &topic(1));
        assert!(account.must_keep(now, ttl));
        assert!(!account.must_keep(now + Duration::from_secs(39), ttl));
        assert!(account.must_keep(now + Duration::from_secs(79), ttl));
        ledger.fail(&topic(1));
        assert!(ledger.open(&keys, &topic(1)).must_keep(now + Duration::from_secs(80), ttl));
        assert!(!ledger.open(&keys, &topic(1)).must_keep(now, Duration::ZERO));
    }
}
