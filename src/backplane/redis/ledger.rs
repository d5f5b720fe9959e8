//! What this replica knows of the topics that it publishes to on one server: names, epoch, last acknowledged id; and,
//! when the server changed, which acknowledged ids it must verify. Pure and bounded; what is dropped is learned again.

use std::{
    collections::{HashMap, hash_map::Entry},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use tickgate_wire::model::{StreamId, Topic, TopicRule};

use super::claims::{Claim, Claims};
use crate::redis_link::Keys;

/// Topics remembered. When half of that is reached, those not published to since the last time are dropped.
const TOPICS_MAX: usize = 131_072;
/// A stream's expiry is renewed when this fraction of it has passed.
const RENEW_FRACTION: u32 = 8;
/// Reported losses remembered of one topic; the oldest is dropped.
const LOSSES_MAX: usize = 4;

/// The expiry to set, so that the stream stays for the whole `ttl` after its last publication although not every
/// publication renews it. In whole seconds; zero stays zero.
pub(super) fn expiry(ttl: Duration) -> Duration {
    let whole = ttl + ttl / RENEW_FRACTION;
    Duration::from_secs(whole.as_secs() + u64::from(whole.subsec_nanos() > 0))
}

/// The accounts of the topics, in two halves: those used lately, and those not used since the halves last turned.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    young: HashMap<Topic, Account>,
    old: HashMap<Topic, Account>,
    /// Generation of the newest server known; 0 before the first.
    generation: u64,
    pub(super) claims: Claims,
}

/// What is known of one topic.
#[derive(Debug)]
pub(super) struct Account {
    /// Name of its stream and its channel.
    pub(super) stream: Arc<str>,
    /// Epoch of the last id that came back; 0 when none did.
    pub(super) epoch: u64,
    /// The last id that was acknowledged to a publisher, and when.
    acknowledged: Option<(StreamId, Instant)>,
    /// Generation of the last server that was found to have that id, or to have had it.
    verified: u64,
    /// Losses that markers report, the latest last.
    losses: Vec<Loss>,
    /// Number of the last publication that was stored, in the order of the hand-over.
    stored: u64,
    renewed: Option<Instant>,
    rule: Arc<TopicRule>,
}

/// An acknowledged id that was lost, with the marker that reports it.
#[derive(Debug)]
struct Loss {
    id: StreamId,
    marker: StreamId,
    /// Generation of the last server that was found to have the marker, or to have had it.
    verified: u64,
    reported: Instant,
}

impl Ledger {
    /// The account of the topic, opened if there is none.
    pub(super) fn open(&mut self, keys: &Keys, topic: &Topic, rule: &Arc<TopicRule>) -> &mut Account {
        if self.young.len() >= TOPICS_MAX / 2 {
            self.old = mem::take(&mut self.young);
        }
        match self.young.entry(topic.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                entry.insert(self.old.remove(topic).unwrap_or_else(|| Account::new(keys, topic, rule)))
            }
        }
    }

    /// The account of the topic, if there still is one.
    pub(super) fn get(&mut self, topic: &Topic) -> Option<&mut Account> {
        self.young.get_mut(topic).or_else(|| self.old.get_mut(topic))
    }

    /// Generation of the newest server known; 0 before the first.
    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// The server changed: everything acknowledged so far has to be verified on the new one. Called before anything is
    /// published in the new generation, which would replace what was acknowledged in the one before.
    pub(super) fn adopt(&mut self, generation: u64, now: Instant) {
        if generation <= self.generation {
            return;
        }
        if self.generation != 0 {
            let accounts = self.young.iter().chain(&self.old);
            self.claims.add(accounts.flat_map(|(topic, account)| account.claims(topic, now)));
        }
        self.generation = generation;
    }

    /// The publication `id` was lost, and a marker reports it: from now on one of the two must be there.
    pub(super) fn lost(&mut self, topic: &Topic, id: StreamId, marker: StreamId, now: Instant) {
        let Some(account) = self.get(topic) else { return };
        account.losses.retain(|loss| loss.id != id);
        if account.losses.len() == LOSSES_MAX {
            account.losses.remove(0);
        }
        account.losses.push(Loss { id, marker, verified: 0, reported: now });
        account.acknowledged.take_if(|(acknowledged, _)| *acknowledged <= id);
    }

    /// The server of this generation has what was claimed, or had it.
    pub(super) fn verified(&mut self, claim: &Claim, generation: u64) {
        let Some(account) = self.get(&claim.topic) else { return };
        if let Some(loss) = account.losses.iter_mut().find(|loss| Some(loss.marker) == claim.marker) {
            loss.verified = generation;
        } else if account.acknowledged.is_some_and(|(id, _)| id == claim.id) {
            account.verified = generation;
        }
    }

    /// Whether a publication that was handed over later is stored already.
    pub(super) fn is_overtaken(&mut self, topic: &Topic, number: u64) -> bool {
        self.get(topic).is_some_and(|account| account.stored > number)
    }
}

impl Account {
    fn new(keys: &Keys, topic: &Topic, rule: &Arc<TopicRule>) -> Self {
        Self {
            stream: keys.stream(topic).into(),
            epoch: 0,
            acknowledged: None,
            verified: 0,
            losses: Vec::new(),
            stored: 0,
            renewed: None,
            rule: Arc::clone(rule),
        }
    }

    /// What must be in the stream, or be reported as lost. Not what its time to live has passed for.
    fn claims(&self, topic: &Topic, now: Instant) -> impl Iterator<Item = Claim> {
        let lost = self.losses.iter().map(|loss| (loss.id, Some(loss.marker), loss.verified, loss.reported));
        let acknowledged = self.acknowledged.map(|(id, at)| (id, None, self.verified, at));
        let ttl = self.rule.retain_ttl;
        let stays = move |at: &Instant| ttl.is_zero() || now.saturating_duration_since(*at) <= ttl;
        lost.chain(acknowledged).filter(move |(.., at)| stays(at)).map(|(id, marker, verified, _)| Claim {
            topic: topic.clone(),
            id,
            marker,
            proven: marker.unwrap_or(id).epoch.max(verified),
            rule: Arc::clone(&self.rule),
        })
    }

    /// Whether the stream's expiry should be renewed by the publication that is sent now.
    pub(super) fn renew(&mut self, now: Instant, ttl: Duration) -> bool {
        let due = self.renewed.is_none_or(|renewed| now.duration_since(renewed) >= ttl / RENEW_FRACTION);
        if due {
            self.renewed = Some(now);
        }
        due
    }

    /// A publication was stored by this replica under the id.
    pub(super) fn store(&mut self, id: StreamId, number: u64, now: Instant) {
        self.stored = self.stored.max(number);
        self.acknowledge(id, now);
    }

    /// A publication is acknowledged under the id, whichever replica stored it.
    pub(super) fn acknowledge(&mut self, id: StreamId, now: Instant) {
        self.epoch = self.epoch.max(id.epoch);
        if self.acknowledged.is_none_or(|(acknowledged, _)| acknowledged < id) {
            self.acknowledged = Some((id, now));
            self.verified = 0;
        }
    }

    /// A publication failed: the next one renews the expiry, since this one may not have.
    pub(super) fn fail(&mut self) {
        self.renewed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backplane::redis::for_tests;

    fn rule(retain_ttl: Duration) -> Arc<TopicRule> {
        for_tests::rule(100, retain_ttl)
    }

    fn topic(number: usize) -> Topic {
        Topic::public(&format!("t{number}")).unwrap()
    }

    /// What would have to be verified if the server changed now.
    fn claims(ledger: &mut Ledger, now: Instant) -> Vec<(StreamId, Option<StreamId>, u64)> {
        ledger.adopt(ledger.generation() + 1, now);
        let mut claims: Vec<_> = ledger.claims.take().iter().map(|c| (c.id, c.marker, c.proven)).collect();
        claims.sort_unstable();
        claims
    }

    #[test]
    fn it_stays_bounded_and_keeps_what_is_in_use() {
        let (keys, rule, mut ledger) = (Keys::new("x:"), rule(Duration::ZERO), Ledger::default());
        for number in 0..TOPICS_MAX * 2 {
            ledger.open(&keys, &topic(number), &rule);
            ledger.open(&keys, &topic(0), &rule).epoch = 7;
        }
        assert!(ledger.young.len() + ledger.old.len() <= TOPICS_MAX);
        assert_eq!(ledger.open(&keys, &topic(0), &rule).epoch, 7);
    }

    #[test]
    fn only_another_server_makes_claims_of_what_was_acknowledged() {
        let (keys, rule, mut ledger, now) = (Keys::new("x:"), rule(Duration::ZERO), Ledger::default(), Instant::now());
        ledger.adopt(5, now);
        ledger.open(&keys, &topic(1), &rule).store(StreamId::new(5, 3), 1, now);
        ledger.adopt(5, now);
        ledger.adopt(4, now);
        assert!(ledger.claims.take().is_empty());
        ledger.adopt(6, now);
        let claims = ledger.claims.take();
        assert_eq!(claims.iter().map(|claim| claim.id).collect::<Vec<_>>(), [StreamId::new(5, 3)]);
        assert_eq!(ledger.generation(), 6);
    }

    #[test]
    fn what_was_lost_is_verified_together_with_its_marker_beside_what_came_later() {
        let (keys, rule, mut ledger, now) = (Keys::new("x:"), rule(Duration::ZERO), Ledger::default(), Instant::now());
        ledger.adopt(1, now);
        let (lost, marker, later) = (StreamId::new(5, 9), StreamId::new(6, 1), StreamId::new(6, 0));
        ledger.open(&keys, &topic(1), &rule).store(lost, 1, now);
        ledger.lost(&topic(1), lost, marker, now);
        assert_eq!(claims(&mut ledger, now), [(lost, Some(marker), 6)]);
        ledger.open(&keys, &topic(1), &rule).store(later, 2, now);
        assert_eq!(claims(&mut ledger, now), [(lost, Some(marker), 6), (later, None, 6)]);
        let again = StreamId::new(7, 0);
        ledger.lost(&topic(1), lost, again, now);
        assert_eq!(claims(&mut ledger, now), [(lost, Some(again), 7), (later, None, 6)]);
        for epoch in 8..20 {
            ledger.lost(&topic(1), StreamId::new(epoch, 0), StreamId::new(epoch + 1, 0), now);
        }
        assert_eq!(claims(&mut ledger, now).len(), LOSSES_MAX);
    }

    #[test]
    fn what_a_server_was_found_to_have_proves_more_to_the_next() {
        let (keys, rule, mut ledger, now) = (Keys::new("x:"), rule(Duration::ZERO), Ledger::default(), Instant::now());
        ledger.adopt(1, now);
        let (id, later) = (StreamId::new(5, 9), StreamId::new(5, 10));
        ledger.open(&keys, &topic(1), &rule).store(id, 1, now);
        ledger.adopt(8, now);
        let claim = ledger.claims.take().pop().unwrap();
        ledger.verified(&claim, 8);
        assert_eq!(claims(&mut ledger, now), [(id, None, 8)]);
        ledger.open(&keys, &topic(1), &rule).store(later, 2, now);
        assert_eq!(claims(&mut ledger, now), [(later, None, 5)], "nobody has looked for this one yet");
    }

    #[test]
    fn what_has_expired_is_not_claimed() {
        let (keys, mut ledger, now) = (Keys::new("x:"), Ledger::default(), Instant::now());
        ledger.adopt(1, now);
        ledger.open(&keys, &topic(1), &rule(Duration::from_secs(80))).store(StreamId::new(5, 9), 1, now);
        assert_eq!(claims(&mut ledger, now + Duration::from_secs(80)).len(), 1);
        assert_eq!(claims(&mut ledger, now + Duration::from_secs(81)).len(), 0);
    }

    #[test]
    fn a_stream_outlives_its_last_publication_by_the_whole_ttl() {
        for seconds in [1, 7, 80, 86_400] {
            let ttl = Duration::from_secs(seconds);
            assert!(expiry(ttl) - ttl / RENEW_FRACTION >= ttl, "{seconds}");
        }
        assert_eq!(
            (expiry(Duration::ZERO), expiry(Duration::from_millis(300))),
            (Duration::ZERO, Duration::from_secs(1))
        );
    }

    #[test]
    fn an_expiry_is_renewed_when_a_part_of_it_has_passed_or_a_publication_failed() {
        let (keys, rule, mut ledger) = (Keys::new("x:"), rule(Duration::from_secs(80)), Ledger::default());
        let (account, now) = (ledger.open(&keys, &topic(1), &rule), Instant::now());
        assert!(account.renew(now, Duration::from_secs(80)));
        assert!(!account.renew(now + Duration::from_secs(9), Duration::from_secs(80)));
        account.fail();
        assert!(account.renew(now + Duration::from_secs(9), Duration::from_secs(80)));
        assert!(account.renew(now + Duration::from_secs(19), Duration::from_secs(80)));
    }
}
