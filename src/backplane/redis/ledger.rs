//! What this replica knows of the topics that it publishes to on one server: names, epoch, last acknowledged id. After a
//! change of server it says which ids have to be looked for. Pure and bounded; what is dropped is known to be.

use std::{
    collections::{HashMap, hash_map::Entry},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use tickgate_wire::model::{StreamId, Topic};

use crate::redis_link::Keys;

/// Topics remembered. When half of that is reached, those not published to since the last time are dropped.
const TOPICS_MAX: usize = 131_072;
/// A stream that was published to within this part of its time to live is not about to be forgotten.
const FRESH_FRACTION: u32 = 2;

/// The accounts of the topics, in two halves: those used lately, and those not used since the halves last turned.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    young: HashMap<Topic, Account>,
    old: HashMap<Topic, Account>,
    /// The last answered beat.
    beat: u64,
    /// The greatest beat of an acknowledgement that was dropped.
    horizon: Option<u64>,
    /// The generation that is published in.
    generation: u64,
}

/// What is known of one topic.
#[derive(Debug)]
pub(super) struct Account {
    /// Name of its stream and its channel.
    pub(super) stream: Arc<str>,
    /// Epoch of the last id that came back in this generation; 0 when none did.
    pub(super) epoch: u64,
    /// The last id that was acknowledged to a publisher, and the beat that had been answered then.
    acknowledged: Option<(StreamId, u64)>,
    /// Number of the last publication that was stored, in the order of the hand-over.
    stored: u64,
    published: Option<Instant>,
}

impl Ledger {
    /// The account of the topic, opened if there is none.
    pub(super) fn open(&mut self, keys: &Keys, topic: &Topic) -> &mut Account {
        if self.young.len() >= TOPICS_MAX / 2 {
            let dropped = mem::replace(&mut self.old, mem::take(&mut self.young));
            let beats = dropped.values().filter_map(|account| account.acknowledged.map(|(_, beat)| beat));
            self.horizon = self.horizon.max(beats.max());
        }
        match self.young.entry(topic.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(self.old.remove(topic).unwrap_or_else(|| Account::new(keys, topic))),
        }
    }

    /// The account of the topic, if there still is one.
    fn get(&mut self, topic: &Topic) -> Option<&mut Account> {
        self.young.get_mut(topic).or_else(|| self.old.get_mut(topic))
    }

    /// A beat was answered.
    pub(super) fn answered(&mut self, beat: u64) {
        self.beat = beat;
    }

    /// From now on another generation is published in: no epoch of an earlier one goes on.
    pub(super) fn begin(&mut self, generation: u64) {
        if mem::replace(&mut self.generation, generation) != generation {
            self.young.values_mut().chain(self.old.values_mut()).for_each(|account| account.epoch = 0);
        }
    }

    /// The acknowledged ids that a dataset may lack whose last beat of this replica is `beat` (`None`: it has none).
    /// `None` when some are no longer remembered.
    pub(super) fn claims(&self, beat: Option<u64>) -> Option<Vec<(Topic, StreamId)>> {
        // What was acknowledged before a beat was answered may have run after it; never after the next but one was sent.
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

    /// A publication is acknowledged under the id, whichever replica stored it.
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

    /// A publication was stored by this replica.
    pub(super) fn store(&mut self, topic: &Topic, number: u64) {
        if let Some(account) = self.get(topic) {
            account.stored = account.stored.max(number);
        }
    }

    /// A publication failed: the next one makes sure of everything anew.
    pub(super) fn fail(&mut self, topic: &Topic) {
        if let Some(account) = self.get(topic) {
            (account.published, account.epoch) = (None, 0);
        }
    }

    /// Whether a publication that was handed over later is stored already.
    pub(super) fn is_overtaken(&mut self, topic: &Topic, number: u64) -> bool {
        self.get(topic).is_some_and(|account| account.stored > number)
    }
}

impl Account {
    fn new(keys: &Keys, topic: &Topic) -> Self {
        Self { stream: keys.stream(topic).into(), epoch: 0, acknowledged: None, stored: 0, published: None }
    }

    /// Whether the stream may be about to be forgotten, and the publication that is sent now must keep it.
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

    fn claimed(ledger: &Ledger, beat: Option<u64>) -> Vec<StreamId> {
        ledger.claims(beat).unwrap().into_iter().map(|(_, id)| id).collect()
    }

    #[test]
    fn it_stays_bounded_keeps_what_is_in_use_and_knows_what_it_dropped() {
        let (keys, mut ledger) = (Keys::new("x:"), Ledger::default());
        ledger.answered(3);
        for number in 0..TOPICS_MAX * 2 {
            ledger.acknowledge(&keys, &topic(number), StreamId::new(5, 0));
            ledger.open(&keys, &topic(0)).epoch = 7;
        }
        assert!(ledger.young.len() + ledger.old.len() <= TOPICS_MAX);
        assert_eq!(ledger.open(&keys, &topic(0)).epoch, 7);
        assert_eq!(ledger.claims(Some(4)), None, "what was dropped may be lost");
        assert!(ledger.claims(Some(5)).is_some_and(|claims| claims.is_empty()));
    }

    #[test]
    fn only_what_no_later_beat_proves_has_to_be_looked_for() {
        let (keys, mut ledger) = (Keys::new("x:"), Ledger::default());
        ledger.begin(5);
        ledger.answered(7);
        ledger.acknowledge(&keys, &topic(1), StreamId::new(5, 3));
        ledger.acknowledge(&keys, &topic(1), StreamId::new(5, 2));
        assert_eq!(claimed(&ledger, Some(8)), [StreamId::new(5, 3)]);
        assert!(claimed(&ledger, Some(9)).is_empty());
        assert_eq!(claimed(&ledger, None), [StreamId::new(5, 3)]);
    }

    #[test]
    fn no_epoch_goes_on_in_another_generation() {
        let (keys, mut ledger) = (Keys::new("x:"), Ledger::default());
        ledger.begin(5);
        ledger.acknowledge(&keys, &topic(1), StreamId::new(6, 3));
        assert_eq!(ledger.open(&keys, &topic(1)).epoch, 6);
        ledger.begin(9);
        assert_eq!(ledger.open(&keys, &topic(1)).epoch, 0);
        ledger.acknowledge(&keys, &topic(1), StreamId::new(6, 4));
        assert_eq!(ledger.open(&keys, &topic(1)).epoch, 0, "a repeat of what an earlier one stored");
    }

    #[test]
    fn a_stream_that_was_quiet_for_half_its_life_is_kept() {
        let (keys, ttl, now) = (Keys::new("x:"), Duration::from_secs(80), Instant::now());
        let mut ledger = Ledger::default();
        let account = ledger.open(&keys, &topic(1));
        assert!(account.must_keep(now, ttl));
        assert!(!account.must_keep(now + Duration::from_secs(39), ttl));
        assert!(account.must_keep(now + Duration::from_secs(79), ttl));
        ledger.fail(&topic(1));
        assert!(ledger.open(&keys, &topic(1)).must_keep(now + Duration::from_secs(80), ttl));
        assert!(!ledger.open(&keys, &topic(1)).must_keep(now, Duration::ZERO));
    }
}
