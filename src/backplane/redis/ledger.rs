//! What this replica knows of the topics it publishes to: names in Redis, epoch, last acknowledged id. Bounded; what
//! falls out is learned again. Never asked for delivery: it serves publishing and its verification only.

use std::{
    collections::{HashMap, hash_map::Entry},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use tickgate_wire::model::{StreamId, Topic, TopicRule};

use crate::redis_link::Keys;

/// Topics remembered, at the most; those not published to for the longest time fall out in halves.
const TOPICS_MAX: usize = 131_072;
/// The stream's expiry is renewed when this part of it has passed.
const RENEW_PART: u32 = 8;
/// Told losses remembered of one topic; the oldest falls out.
const LOSSES_MAX: usize = 4;

/// The expiry that is set, so that the stream stays for the whole `ttl` after its last publication although not every
/// publication renews it. In whole seconds; zero stays zero.
pub(super) fn expiry(ttl: Duration) -> Duration {
    let whole = ttl + ttl / RENEW_PART;
    Duration::from_secs(whole.as_secs() + u64::from(whole.subsec_nanos() > 0))
}

/// What is known of one topic.
#[derive(Debug)]
pub(super) struct Known {
    /// Name of its stream and its channel.
    pub(super) stream: Arc<str>,
    /// Epoch of the last id that came back; 0 when none did.
    pub(super) epoch: u64,
    /// The last id that was acknowledged to a publisher, and when.
    acknowledged: Option<(StreamId, Instant)>,
    /// Generation of the last server that was found to have that id, or to have had it.
    found: u64,
    /// Losses that were told, the latest last.
    losses: Vec<Loss>,
    /// Number of the last publication that was stored, in the order of the hand-over.
    pub(super) stored: u64,
    renewed: Option<Instant>,
    rule: Arc<TopicRule>,
}

/// An acknowledged id that a new server may have lost.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) topic: Topic,
    pub(super) id: StreamId,
    /// What tells that it was lost, where that is known already: the server may have lost this as well.
    pub(super) marker: Option<StreamId>,
    /// Entries of this epoch, or of an earlier one, prove that what they follow was there.
    pub(super) proven: u64,
    pub(super) rule: Arc<TopicRule>,
}

/// An acknowledged id that was lost, with the marker that tells of it, and when that was told.
#[derive(Debug)]
struct Loss {
    id: StreamId,
    marker: StreamId,
    /// Generation of the last server that was found to have the marker, or to have had it.
    found: u64,
    at: Instant,
}

/// The topics, in two halves: the young ones, and those not touched since the last turn.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    young: HashMap<Topic, Known>,
    old: HashMap<Topic, Known>,
}

impl Ledger {
    /// What is known of the topic; begins to know it.
    pub(super) fn know(&mut self, keys: &Keys, topic: &Topic, rule: &Arc<TopicRule>) -> &mut Known {
        if self.young.len() >= TOPICS_MAX / 2 {
            self.old = mem::take(&mut self.young);
        }
        match self.young.entry(topic.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                entry.insert(self.old.remove(topic).unwrap_or_else(|| Known::new(keys, topic, rule)))
            }
        }
    }

    /// The topic, if it is still known.
    pub(super) fn get(&mut self, topic: &Topic) -> Option<&mut Known> {
        self.young.get_mut(topic).or_else(|| self.old.get_mut(topic))
    }

    /// Every acknowledged id that should still be in its stream, or be told as lost.
    pub(super) fn claims(&self) -> Vec<Claim> {
        self.young.iter().chain(&self.old).flat_map(|(topic, known)| known.claims(topic)).collect()
    }

    /// The publication `id` was lost, and a marker tells of it: from now on one of the two must be there.
    pub(super) fn told(&mut self, topic: &Topic, id: StreamId, marker: StreamId) {
        let Some(known) = self.get(topic) else { return };
        known.losses.retain(|loss| loss.id != id);
        if known.losses.len() == LOSSES_MAX {
            known.losses.remove(0);
        }
        known.losses.push(Loss { id, marker, found: 0, at: Instant::now() });
        known.acknowledged.take_if(|(acknowledged, _)| *acknowledged <= id);
    }

    /// The server of this generation has what was claimed, or had it.
    pub(super) fn found(&mut self, claim: &Claim, generation: u64) {
        let Some(known) = self.get(&claim.topic) else { return };
        if let Some(loss) = known.losses.iter_mut().find(|loss| Some(loss.marker) == claim.marker) {
            loss.found = generation;
        } else if known.acknowledged.is_some_and(|(id, _)| id == claim.id) {
            known.found = generation;
        }
    }
}

impl Known {
    fn new(keys: &Keys, topic: &Topic, rule: &Arc<TopicRule>) -> Self {
        Self {
            stream: keys.stream(topic).into(),
            epoch: 0,
            acknowledged: None,
            found: 0,
            losses: Vec::new(),
            stored: 0,
            renewed: None,
            rule: Arc::clone(rule),
        }
    }

    fn claims(&self, topic: &Topic) -> impl Iterator<Item = Claim> {
        let told =
            self.losses.iter().map(|loss| (loss.id, Some(loss.marker), loss.marker.epoch.max(loss.found), loss.at));
        let ttl = self.rule.retain_ttl;
        let stays = move |at: &Instant| ttl.is_zero() || at.elapsed() <= ttl;
        let all = told.chain(self.acknowledged.map(|(id, at)| (id, None, id.epoch.max(self.found), at)));
        all.filter(move |(.., at)| stays(at)).map(|(id, marker, proven, _)| Claim {
            topic: topic.clone(),
            id,
            marker,
            proven,
            rule: Arc::clone(&self.rule),
        })
    }

    /// Whether the stream's expiry should be renewed by the publication that is sent now.
    pub(super) fn renew(&mut self, now: Instant, ttl: Duration) -> bool {
        let due = self.renewed.is_none_or(|renewed| now.duration_since(renewed) >= ttl / RENEW_PART);
        if due {
            self.renewed = Some(now);
        }
        due
    }

    /// A publication was stored under the id.
    pub(super) fn store(&mut self, id: StreamId, number: u64, now: Instant) {
        self.stored = self.stored.max(number);
        self.acknowledge(id, now);
    }

    /// A publication is acknowledged under the id, whoever stored it.
    pub(super) fn acknowledge(&mut self, id: StreamId, now: Instant) {
        self.epoch = self.epoch.max(id.epoch);
        if self.acknowledged.is_none_or(|(acknowledged, _)| acknowledged < id) {
            self.acknowledged = Some((id, now));
            self.found = 0;
        }
    }

    /// A publication failed: the next one renews the expiry, since this one may not have.
    pub(super) fn fail(&mut self) {
        self.renewed = None;
    }
}

#[cfg(test)]
mod tests {
    use tickgate_wire::model::{Class, Pattern};

    use super::*;

    fn rule(retain_ttl: Duration) -> Arc<TopicRule> {
        Arc::new(TopicRule {
            pattern: Pattern::new("*").unwrap(),
            class: Class::Reliable,
            retain_max: 100,
            retain_ttl,
            wait_replicas: 0,
            wait_aof: false,
        })
    }

    fn topic(number: usize) -> Topic {
        Topic::public(&format!("t{number}")).unwrap()
    }

    #[test]
    fn it_stays_bounded_and_keeps_what_is_in_use() {
        let (keys, rule, mut ledger) = (Keys::new("x:"), rule(Duration::ZERO), Ledger::default());
        for number in 0..TOPICS_MAX * 2 {
            ledger.know(&keys, &topic(number), &rule);
            ledger.know(&keys, &topic(0), &rule).epoch = 7;
        }
        assert!(ledger.young.len() + ledger.old.len() <= TOPICS_MAX);
        assert_eq!(ledger.know(&keys, &topic(0), &rule).epoch, 7);
    }

    #[test]
    fn what_was_lost_is_looked_after_together_with_its_marker_beside_what_came_later() {
        let (keys, rule, mut ledger) = (Keys::new("x:"), rule(Duration::ZERO), Ledger::default());
        let claims = |ledger: &Ledger| ledger.claims().iter().map(|c| (c.id, c.marker)).collect::<Vec<_>>();
        let (lost, marker, later) = (StreamId::new(5, 9), StreamId::new(6, 1), StreamId::new(6, 0));
        ledger.know(&keys, &topic(1), &rule).store(lost, 1, Instant::now());
        ledger.told(&topic(1), lost, marker);
        assert_eq!(claims(&ledger), [(lost, Some(marker))]);
        ledger.know(&keys, &topic(1), &rule).store(later, 2, Instant::now());
        assert_eq!(claims(&ledger), [(lost, Some(marker)), (later, None)]);
        let again = StreamId::new(7, 0);
        ledger.told(&topic(1), lost, again);
        assert_eq!(claims(&ledger), [(lost, Some(again)), (later, None)]);
        for epoch in 8..20 {
            ledger.told(&topic(1), StreamId::new(epoch, 0), StreamId::new(epoch + 1, 0));
        }
        assert_eq!(claims(&ledger).len(), LOSSES_MAX);
    }

    #[test]
    fn a_stream_outlives_its_last_publication_by_the_whole_ttl() {
        for seconds in [1, 7, 80, 86_400] {
            let ttl = Duration::from_secs(seconds);
            assert!(expiry(ttl) - ttl / RENEW_PART >= ttl, "{seconds}");
        }
        assert_eq!(
            (expiry(Duration::ZERO), expiry(Duration::from_millis(300))),
            (Duration::ZERO, Duration::from_secs(1))
        );
    }

    #[test]
    fn an_expiry_is_renewed_when_a_part_of_it_has_passed_or_a_publication_failed() {
        let (keys, rule, mut ledger) = (Keys::new("x:"), rule(Duration::from_secs(80)), Ledger::default());
        let (known, now) = (ledger.know(&keys, &topic(1), &rule), Instant::now());
        assert!(known.renew(now, Duration::from_secs(80)));
        assert!(!known.renew(now + Duration::from_secs(9), Duration::from_secs(80)));
        known.fail();
        assert!(known.renew(now + Duration::from_secs(9), Duration::from_secs(80)));
        assert!(known.renew(now + Duration::from_secs(19), Duration::from_secs(80)));
    }
}
