//! The registry of a single process: the same contract without leases, because everything ends with the process.
//!
//! Never waits, and never fails.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tickgate_wire::model::{IssuedAt, SessionId, Topic, UserId};
use tokio::time::Instant;

use super::{
    Admission, AdmissionVerdict, ClusterFigures, ConnectionInfo, ControlInstruction, Inquiry, InquiryAnswers,
    LocalReplica, OperationOutcome, RegistryUnavailable, RevokedToken, SessionRecord, TopicPresence, endings,
    presence::TopicAudience,
    revocations::{Revocation, Revocations},
    revoked,
    standings::{Standings, UserStanding},
    superseded,
};
use crate::clock;

/// Maximum number of tickets; beyond it the oldest are dropped.
const TICKETS_MAX: usize = 100_000;
/// Maximum number of records of closed sessions; beyond it the oldest are dropped.
const LEFT_MAX: usize = 16_384;

/// The registry of a single process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Memory(Arc<RegistryShared>);

#[derive(Debug)]
struct RegistryShared {
    local: LocalReplica,
    state: Mutex<RegistryState>,
    revocations: Revocations,
    standings: Standings,
    /// Counter that orders operator commands about users.
    words: AtomicU64,
}

#[derive(Debug, Default)]
struct RegistryState {
    /// Sessions of each user in order of admission.
    users: HashMap<UserId, Vec<UserPlace>>,
    connections: HashMap<SessionId, SessionConnection>,
    records: HashMap<SessionId, KeptRecord>,
    /// Records of closed sessions in order of expiry; some were resumed since.
    ends: VecDeque<(Instant, SessionId)>,
    tickets: HashMap<String, StoredTicket>,
    ticket_order: VecDeque<String>,
}

/// A session's place among its user's.
#[derive(Debug)]
struct UserPlace {
    session: SessionId,
    /// The profile, if its sessions compete only with each other.
    apart: Option<Arc<str>>,
}

/// The connection of one session.
#[derive(Debug, Default)]
struct SessionConnection {
    user: Option<UserId>,
    /// When its token was issued.
    issued_at: Option<IssuedAt>,
    /// `None` until it is opened.
    info: Option<ConnectionInfo>,
    /// Connections that were admitted and not yet opened.
    pending: u32,
    follows: Vec<Topic>,
}

#[derive(Debug)]
struct KeptRecord {
    record: SessionRecord,
    /// `None` while the session is connected.
    ends: Option<Instant>,
}

#[derive(Debug)]
struct StoredTicket {
    token: String,
    ends: Instant,
}

impl Memory {
    /// An empty one.
    #[must_use]
    pub fn new(local: LocalReplica) -> Self {
        Self(Arc::new(RegistryShared {
            local,
            state: Mutex::default(),
            revocations: Revocations::default(),
            standings: Standings::default(),
            words: AtomicU64::new(0),
        }))
    }

    // Admission.

    pub(super) async fn admit(&self, admission: &Admission) -> AdmissionVerdict {
        if let Some(revoked) = self.0.refuses(&admission.user, admission.issued_at) {
            return AdmissionVerdict::Revoked(revoked);
        }
        let (verdict, evicted) = self.0.state.lock().admit(admission);
        evicted.into_iter().for_each(|session| (self.0.local.control)(superseded(session)));
        verdict
    }

    pub(super) async fn revoke(&self, user: &UserId, ttl: Duration) -> OperationOutcome {
        let now_ms = clock::unix_ms();
        let open = self.0.state.lock().sessions_of(user);
        let issued = open.iter().filter_map(|(_, issued_at)| issued_at.map(IssuedAt::earliest_ms)).max();
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let at_ms = issued.unwrap_or_default().max(now_ms);
        self.0.revocations.add(user, Revocation { at_ms, until_ms: now_ms.saturating_add(ttl_ms) }, now_ms);
        open.into_iter().for_each(|(session, _)| (self.0.local.control)(revoked(session)));
        OperationOutcome::DONE
    }

    pub(super) async fn is_revoked(
        &self,
        user: &UserId,
        issued_at: Option<IssuedAt>,
    ) -> Result<Option<RevokedToken>, RegistryUnavailable> {
        Ok(self.0.refuses(user, issued_at))
    }

    pub(super) async fn report(&self, user: &UserId, inactive: bool, ttl: Duration) -> OperationOutcome {
        let now_ms = clock::unix_ms();
        let until_ms = now_ms.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        let sent = self.0.words.fetch_add(1, Ordering::Relaxed) + 1;
        let counts = self.0.standings.add(user, UserStanding { inactive, until_ms, sent }, now_ms);
        if counts && inactive {
            let open = self.0.state.lock().sessions_of(user);
            open.into_iter().for_each(|(session, _)| (self.0.local.control)(endings::inactive(session)));
        }
        OperationOutcome::DONE
    }

    pub(super) async fn is_inactive(&self, user: &UserId) -> Result<bool, RegistryUnavailable> {
        Ok(self.0.standings.is_inactive(user, clock::unix_ms()) == Some(true))
    }

    pub(super) fn reissued(&self, session: SessionId, issued_at: Option<IssuedAt>) {
        if let Some(connection) = self.0.state.lock().connections.get_mut(&session) {
            connection.issued_at = issued_at;
        }
        self.close_if_revoked(session);
    }

    /// Closes a session whose token was revoked during its admission.
    fn close_if_revoked(&self, session: SessionId) {
        let state = self.0.state.lock();
        let Some(connection) = state.connections.get(&session) else { return };
        let Some(user) = connection.user.clone() else { return };
        let issued_at = connection.issued_at;
        drop(state);
        if self.0.refuses(&user, issued_at).is_some() {
            (self.0.local.control)(revoked(session));
        }
    }

    pub(super) async fn put_ticket(&self, ticket: &str, token: &str, ttl: Duration) -> Result<(), RegistryUnavailable> {
        let mut state = self.0.state.lock();
        if state
            .tickets
            .insert(ticket.into(), StoredTicket { token: token.into(), ends: Instant::now() + ttl })
            .is_none()
        {
            state.ticket_order.push_back(ticket.into());
        }
        if state.ticket_order.len() > TICKETS_MAX
            && let Some(oldest) = state.ticket_order.pop_front()
        {
            state.tickets.remove(&oldest);
        }
        Ok(())
    }

    pub(super) async fn take_ticket(&self, ticket: &str) -> Result<Option<String>, RegistryUnavailable> {
        let taken = self.0.state.lock().tickets.remove(ticket);
        Ok(taken.filter(|taken| taken.ends > Instant::now()).map(|taken| taken.token))
    }

    // Sessions.

    pub(super) fn opened(&self, info: ConnectionInfo) {
        let Some(session) = SessionId::parse(&info.session) else { return };
        {
            let mut state = self.0.state.lock();
            if let Some(kept) = state.records.get_mut(&session) {
                kept.ends = None;
            }
            let connection = state.connections.entry(session).or_default();
            connection.pending = connection.pending.saturating_sub(1);
            connection.user = info.user.as_deref().and_then(|user| UserId::new(user).ok());
            connection.info = Some(info);
        }
        self.close_if_revoked(session);
    }

    pub(super) fn closed(&self, session: SessionId) {
        let now = Instant::now();
        self.0.state.lock().closed(session, now + self.0.local.session.resume_ttl, now);
    }

    pub(super) fn record(&self, session: SessionId, record: SessionRecord) {
        let mut state = self.0.state.lock();
        if state.connections.contains_key(&session) {
            state.records.insert(session, KeptRecord { record, ends: None });
        }
    }

    pub(super) fn follows(&self, session: SessionId, topics: Vec<Topic>) {
        if let Some(connection) = self.0.state.lock().connections.get_mut(&session) {
            connection.follows = topics;
        }
    }

    pub(super) async fn recall(&self, session: SessionId) -> Result<Option<SessionRecord>, RegistryUnavailable> {
        let mut state = self.0.state.lock();
        state.forget_ended(Instant::now());
        Ok(state.records.get(&session).map(|kept| kept.record.clone()))
    }

    pub(super) async fn connections(&self, limit: usize) -> Result<Vec<ConnectionInfo>, RegistryUnavailable> {
        let state = self.0.state.lock();
        Ok(state.connections.values().filter_map(|connection| connection.info.clone()).take(limit).collect())
    }

    // Control and presence.

    pub(super) async fn control(&self, control: ControlInstruction) -> OperationOutcome {
        (self.0.local.control)(control);
        OperationOutcome::DONE
    }

    pub(super) async fn inquire(&self, inquiry: &Inquiry) -> Result<InquiryAnswers, RegistryUnavailable> {
        let follows = |topic: &str| {
            let state = self.0.state.lock();
            let followers =
                state.connections.iter().filter(|(_, one)| one.follows.iter().any(|of| of.as_str() == topic));
            followers.map(|(session, _)| *session).collect::<HashSet<_>>()
        };
        let followers = inquiry.topic().map(follows);
        Ok(InquiryAnswers::of((self.0.local.answer)(inquiry, followers.as_ref())))
    }

    pub(super) async fn presence(&self, topic: &Topic) -> Result<TopicPresence, RegistryUnavailable> {
        let state = self.0.state.lock();
        let mut audience = TopicAudience::default();
        for connection in state.connections.values().filter(|connection| connection.follows.contains(topic)) {
            audience.add(connection.user.as_ref());
        }
        Ok(audience.presence())
    }

    // Leases are not needed: there is one replica, for as long as the process lives.

    pub(super) async fn cluster(&self) -> Result<ClusterFigures, RegistryUnavailable> {
        Ok(ClusterFigures { replicas: vec![(self.0.local.replica.clone(), (self.0.local.figures)())] })
    }

    /// There is no other replica, so the first turn never ends.
    pub(super) async fn hold(&self, _: &str, _: Duration, above: u64) -> Result<Option<u64>, RegistryUnavailable> {
        Ok(Some(above + 1))
    }

    /// The only replica requests what its own clients subscribe to.
    pub(super) async fn want(
        &self,
        _: &str,
        names: &[String],
        _: Duration,
        _: bool,
    ) -> Result<Vec<String>, RegistryUnavailable> {
        Ok(names.to_vec())
    }

    pub(super) async fn leave(&self) -> Result<(), RegistryUnavailable> {
        Ok(())
    }
}

impl RegistryShared {
    /// Why such a token is refused.
    fn refuses(&self, user: &UserId, issued_at: Option<IssuedAt>) -> Option<RevokedToken> {
        let now_ms = clock::unix_ms();
        if self.standings.is_inactive(user, now_ms) == Some(true) {
            return Some(RevokedToken::Surely);
        }
        self.revocations.refuses(user, issued_at, now_ms)
    }
}

impl RegistryState {
    /// The user's sessions, with the times at which their tokens were issued.
    fn sessions_of(&self, user: &UserId) -> Vec<(SessionId, Option<IssuedAt>)> {
        let sessions = self.users.get(user).into_iter().flatten().map(|place| &place.session);
        let issued_at = |session| self.connections.get(session).and_then(|connection| connection.issued_at);
        sessions.map(|session| (*session, issued_at(session))).collect()
    }

    fn admit(&mut self, admission: &Admission) -> (AdmissionVerdict, Vec<SessionId>) {
        let places = self.users.entry(admission.user.clone()).or_default();
        let max = admission.connections_max as usize;
        let competes = |place: &UserPlace| place.apart == admission.apart;
        let others = places.iter().filter(|place| place.session != admission.session && competes(place)).count();
        let over = (others + 1).saturating_sub(max);
        if over > 0 && (max == 0 || !admission.evict_oldest) {
            let connections = u32::try_from(others).unwrap_or(u32::MAX);
            if places.is_empty() {
                self.users.remove(&admission.user);
            }
            return (AdmissionVerdict::Refused { connections }, Vec::new());
        }
        places.retain(|place| place.session != admission.session);
        let oldest = places.iter().filter(|place| competes(place)).take(over);
        let evicted: Vec<SessionId> = oldest.map(|place| place.session).collect();
        places.retain(|place| !evicted.contains(&place.session));
        places.push(UserPlace { session: admission.session, apart: admission.apart.clone() });
        let connections = u32::try_from(others + 1 - over).unwrap_or(u32::MAX);
        let connection = self.connections.entry(admission.session).or_default();
        connection.pending += 1;
        connection.user = Some(admission.user.clone());
        connection.issued_at = admission.issued_at;
        (AdmissionVerdict::Admitted { connections, evicted: evicted.last().copied() }, evicted)
    }

    fn closed(&mut self, session: SessionId, ends: Instant, now: Instant) {
        let Entry::Occupied(mut occupied) = self.connections.entry(session) else { return };
        let connection = occupied.get_mut();
        // A connection that is about to open keeps the session: the open one is removed first.
        if connection.info.take().is_none() {
            connection.pending = connection.pending.saturating_sub(1);
        }
        if connection.pending > 0 {
            return;
        }
        let Some(user) = occupied.remove().user else {
            // An anonymous session has no place that could be lost.
            self.records.remove(&session);
            return self.forget_ended(now);
        };
        if let Entry::Occupied(mut sessions) = self.users.entry(user) {
            sessions.get_mut().retain(|other| other.session != session);
            if sessions.get().is_empty() {
                sessions.remove();
            }
        }
        if let Some(kept) = self.records.get_mut(&session) {
            kept.ends = Some(ends);
            self.ends.push_back((ends, session));
        }
        self.forget_ended(now);
    }

    /// Drops the records of sessions that closed longer ago than the resume window and were not resumed since, and the oldest
    /// beyond the limit.
    fn forget_ended(&mut self, now: Instant) {
        while let Some((until, session)) = self.ends.front().copied()
            && (until <= now || self.ends.len() > LEFT_MAX)
        {
            self.ends.pop_front();
            // A session that was resumed and closed again is queued twice.
            if self.records.get(&session).is_some_and(|kept| kept.ends.is_some_and(|ends| ends <= until)) {
                self.records.remove(&session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A user connects and leaves: a record stays for the resume window.
    fn come_and_go(state: &mut RegistryState, session: SessionId, now: Instant) {
        let admission = Admission {
            user: UserId::new("alice").unwrap(),
            session,
            apart: None,
            connections_max: 5,
            evict_oldest: false,
            issued_at: None,
            replaces: None,
        };
        assert!(matches!(state.admit(&admission).0, AdmissionVerdict::Admitted { .. }));
        state.records.insert(session, KeptRecord { record: SessionRecord::default(), ends: None });
        state.closed(session, now + Duration::from_secs(60), now);
    }

    #[test]
    fn sessions_leave_so_many_records_and_the_oldest_go() {
        let (mut state, now) = (RegistryState::default(), Instant::now());
        let sessions: Vec<_> = (0..LEFT_MAX + 2).map(|_| SessionId::random()).collect();
        sessions.iter().for_each(|session| come_and_go(&mut state, *session, now));
        assert_eq!((state.records.len(), state.ends.len()), (LEFT_MAX, LEFT_MAX));
        let kept = [0, 1, 2, LEFT_MAX + 1].map(|at| state.records.contains_key(&sessions[at]));
        assert_eq!(kept, [false, false, true, true]);
    }
}
