//! What the rest of a replica holds of an open connection: its outbox, its rhythm, whom it belongs to. Never reads
//! from the socket.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::BytesMut;
use parking_lot::Mutex;
use tickgate_wire::{
    code::CloseCode,
    envelope, frame,
    model::{SessionId, StreamId, UserId},
    reply,
};

use super::{
    ended_users::EndedUsers,
    pulse::{Beats, Due, Facts, Pulse},
};
use crate::{
    config::Dialect,
    hub::{Close, Followed, Outbox, SlotId},
    metrics::Disconnect,
};

/// The two clocks of a replica, read together where a message or a tick begins.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { started: Instant::now() }
    }
}

impl Clock {
    /// Milliseconds since the replica started; only grows.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn unix_ms() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }
}

/// One open connection.
#[derive(Debug)]
pub struct Link {
    pub outbox: Arc<Outbox>,
    pub session: SessionId,
    pub opened_ms: u64,
    dialect: Dialect,
    user: OnceLock<UserId>,
    seen_ms: AtomicU64,
    beat: Mutex<Beat>,
}

#[derive(Debug)]
struct Beat {
    pulse: Pulse,
    /// Only while a pong is awaited.
    awaiting: Option<Box<Awaiting>>,
    /// The user's private stream, once subscribed: heartbeats carry its head.
    private: Option<Weak<Followed>>,
}

/// Positions that the next pong confirms.
#[derive(Debug)]
struct Awaiting(Vec<(SlotId, StreamId)>);

impl Link {
    #[must_use]
    pub fn new(outbox: Arc<Outbox>, session: SessionId, dialect: Dialect, pulse: Pulse, now_ms: u64) -> Self {
        Self {
            outbox,
            session,
            opened_ms: Clock::unix_ms(),
            dialect,
            user: OnceLock::new(),
            seen_ms: AtomicU64::new(now_ms),
            beat: Mutex::new(Beat { pulse, awaiting: None, private: None }),
        }
    }

    /// The user, once known.
    #[must_use]
    pub fn user(&self) -> Option<&UserId> {
        self.user.get()
    }

    /// Binds the connection to its user, for good.
    pub fn set_user(&self, user: UserId) {
        // A refresh names the same user; the session has checked.
        let _ = self.user.set(user);
    }

    /// Something came from the client.
    pub fn seen(&self, now_ms: u64) {
        self.seen_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Changes the rhythm.
    pub fn with_pulse<R>(&self, act: impl FnOnce(&mut Pulse) -> R) -> R {
        act(&mut self.beat.lock().pulse)
    }

    /// Heartbeats carry the head of this topic from here on.
    pub fn set_private(&self, topic: Option<&Arc<Followed>>) {
        self.beat.lock().private = topic.map(Arc::downgrade);
    }

    /// A pong came back: the positions it confirms.
    pub fn pong(&self, payload: &[u8]) -> Vec<(SlotId, StreamId)> {
        let mut beat = self.beat.lock();
        let number = payload.try_into().map(u32::from_be_bytes);
        match number {
            Ok(number) if beat.pulse.pong(number) => beat.awaiting.take().map_or(Vec::new(), |awaiting| awaiting.0),
            _ => Vec::new(),
        }
    }

    /// The pong that is awaited confirms nothing of this subscription.
    pub fn forget_ping(&self, slot: SlotId) {
        if let Some(awaiting) = &mut self.beat.lock().awaiting {
            awaiting.0.retain(|(of, _)| *of != slot);
        }
    }

    /// Sends what `write` writes, as this connection's dialect frames it.
    pub fn say(&self, write: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::with_capacity(256);
        match self.dialect {
            Dialect::Json | Dialect::Envelope => frame::frame_text(&mut out, write),
            Dialect::EventStream => frame::sse_event(&mut out, None, write),
        }
        self.outbox.send(out.freeze());
    }

    /// Asks for the end of the connection.
    pub fn close(&self, code: CloseCode, cause: Disconnect, reason: &str) {
        self.outbox.ask_close(Close { code: code.number(), reason: reason.to_owned(), cause });
    }

    /// Does what is due, and says when to look again.
    pub fn tick(&self, now_ms: u64, beats: &Beats) -> u64 {
        let unix_ms = Clock::unix_ms();
        self.outbox.release();
        let (written, blocked) = self.outbox.progress();
        let seen_ms = self.seen_ms.load(Ordering::Relaxed);
        let facts = Facts { now_ms, unix_ms, seen_ms, written, blocked };
        let mut beat = self.beat.lock();
        let (due, next_ms) = beat.pulse.beat(&facts, beats);
        if let Some((code, cause)) = due.close {
            self.close(code, cause, code.meaning());
            return next_ms;
        }
        if due != Due::default() {
            self.speak(&due, unix_ms, &mut beat);
            beat.pulse.spoke(self.outbox.progress().0);
        }
        next_ms
    }

    fn speak(&self, due: &Due, unix_ms: u64, beat: &mut Beat) {
        let mut out = BytesMut::with_capacity(192);
        match self.dialect {
            Dialect::Json => Self::speak_json(&mut out, due, unix_ms, beat),
            Dialect::Envelope if due.heartbeat => {
                let sender = envelope::Sender { source: "server", msg_id: uuid::Uuid::new_v4() };
                frame::frame_text(&mut out, |out| envelope::heartbeat(out, sender, unix_ms));
            }
            Dialect::Envelope => {}
            // Nobody answers on a one-way stream: a reader that is gone shows by what it does not take.
            Dialect::EventStream => {
                frame::sse_comment(&mut out);
                if let Some(number) = due.ping {
                    beat.pulse.pong(number);
                }
                return self.outbox.send(out.freeze());
            }
        }
        if let Some(number) = due.ping {
            beat.awaiting = Some(Box::new(Awaiting(self.outbox.written())));
            frame::ping(&mut out, &number.to_be_bytes());
        }
        self.outbox.send(out.freeze());
    }

    fn speak_json(out: &mut BytesMut, due: &Due, unix_ms: u64, beat: &Beat) {
        if let Some(expires_at) = due.expiring {
            frame::frame_text(out, |out| reply::token_expiring(out, expires_at));
        }
        if due.heartbeat {
            let private = beat.private.as_ref().and_then(Weak::upgrade);
            let head = private.and_then(|topic| topic.position());
            frame::frame_text(out, |out| reply::heartbeat(out, head, unix_ms));
        }
    }
}

/// Ends a connection as somebody else wants it, with the code's own words where there are no others.
pub(super) fn end(link: &Link, code: u16, reason: &str) {
    let code = CloseCode::from_number(code).unwrap_or(CloseCode::Disconnected);
    let cause = match code {
        CloseCode::Superseded => Disconnect::Superseded,
        CloseCode::UserInactive => Disconnect::Revoked,
        _ => Disconnect::Operator,
    };
    link.close(code, cause, if reason.is_empty() { code.meaning() } else { reason });
}

/// All open connections of a replica, by session.
#[derive(Debug, Default)]
pub struct Links {
    parts: [Mutex<HashMap<SessionId, Arc<Link>>>; 16],
    count: AtomicUsize,
    ended: EndedUsers,
}

impl Links {
    fn part(&self, session: SessionId) -> &Mutex<HashMap<SessionId, Arc<Link>>> {
        &self.parts[usize::from(session.low_byte()) % self.parts.len()]
    }

    /// Adds a connection that came `since` then. Returns the one it replaces: the same session, still lingering here.
    pub fn add(&self, link: &Arc<Link>, since: Instant) -> Option<Arc<Link>> {
        let old = self.part(link.session).lock().insert(link.session, link.clone());
        if old.is_none() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        self.end_with_user(link, since);
        old
    }

    /// Ends a connection whose user's connections were ended while it was being let in, `since` then.
    pub fn end_with_user(&self, link: &Link, since: Instant) {
        if let Some((code, reason)) = link.user().and_then(|user| self.ended.since(user, since)) {
            end(link, code, &reason);
        }
    }

    /// Ends all connections of a user, those that are being let in among them.
    pub fn end_user(&self, user: &str, code: u16, reason: &str) {
        // First kept, then looked: whoever is added meanwhile finds it.
        self.ended.add(user, (code, reason), Instant::now());
        let own = self.all().into_iter().filter(|link| link.user().is_some_and(|of| of.as_str() == user));
        own.for_each(|link| end(&link, code, reason));
    }

    /// Removes a connection. False when its session has been taken over by another.
    pub fn remove(&self, link: &Arc<Link>) -> bool {
        let mut part = self.part(link.session).lock();
        let own = part.get(&link.session).is_some_and(|current| Arc::ptr_eq(current, link));
        if own {
            part.remove(&link.session);
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        own
    }

    #[must_use]
    pub fn get(&self, session: SessionId) -> Option<Arc<Link>> {
        self.part(session).lock().get(&session).cloned()
    }

    /// Open connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, for the drain and for control messages to a user.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Link>> {
        self.parts.iter().flat_map(|part| part.lock().values().cloned().collect::<Vec<_>>()).collect()
    }
}

/// One timer for all connections: slots of a tenth of a second, a connection in one of them.
#[derive(Debug)]
pub struct Wheel {
    slots: Vec<Mutex<Vec<Weak<Link>>>>,
    at: AtomicU64,
}

impl Default for Wheel {
    fn default() -> Self {
        Self { slots: (0..Self::SLOTS).map(|_| Mutex::default()).collect(), at: AtomicU64::new(0) }
    }
}

impl Wheel {
    /// Time of one slot.
    pub const TICK: Duration = Duration::from_millis(100);
    const SLOTS: u64 = 128;
    /// Connections looked at before others have their turn: a millisecond's work when all of them have to end.
    const AT_ONCE: usize = 64;

    /// Looks at the connection after `delay_ms` (at most the wheel's turn of 12 s, then again).
    pub fn add(&self, link: &Arc<Link>, delay_ms: u64) {
        self.put(Arc::downgrade(link), delay_ms);
    }

    fn put(&self, link: Weak<Link>, delay_ms: u64) {
        let ahead = (delay_ms / Self::TICK.as_millis() as u64).clamp(1, Self::SLOTS - 1);
        let slot = (self.at.load(Ordering::Relaxed) + ahead) % Self::SLOTS;
        self.slots[slot as usize].lock().push(link);
    }

    /// One tick: whoever's slot has come does what is due and is put where it is due next. Thousands may be due at once:
    /// what the others do goes on between them.
    pub async fn turn(&self, now_ms: u64, beats: &Beats) {
        let at = self.at.fetch_add(1, Ordering::Relaxed) + 1;
        let due = std::mem::take(&mut *self.slots[(at % Self::SLOTS) as usize].lock());
        for some in due.chunks(Self::AT_ONCE) {
            for link in some {
                if let Some(open) = link.upgrade() {
                    let next_ms = open.tick(now_ms, beats);
                    self.put(Weak::clone(link), next_ms.saturating_sub(now_ms));
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Config,
        hub::{MemorySocket, QueueLimits, Shared, Socket},
        metrics::Metrics,
    };

    fn link(user: &str) -> Arc<Link> {
        let limits = QueueLimits { messages_max: 10, bytes_max: 1_000 };
        let shared = Arc::new(Shared { limits, metrics: Metrics::new() });
        let outbox = Outbox::new(Socket::Memory(Box::new(Mutex::new(MemorySocket::default()))), shared);
        let pulse = Pulse::new(&Config::development().session, 0, 128);
        let link = Link::new(outbox, SessionId::random(), Dialect::Json, pulse, 0);
        link.set_user(UserId::new(user).unwrap());
        Arc::new(link)
    }

    #[test]
    fn a_users_connections_end_also_those_that_are_being_let_in() {
        let asked = |link: &Link| link.outbox.look().asked.map(|close| close.code);
        let links = Links::default();
        let came = Instant::now();
        let (open, coming, other) = (link("alice"), link("alice"), link("bob"));
        links.add(&open, came);
        links.end_user("alice", 4002, "");
        links.add(&coming, came);
        links.add(&other, came);
        assert_eq!([&open, &coming, &other].map(|link| asked(link)), [Some(4002), Some(4002), None]);
        let later = link("alice");
        links.add(&later, Instant::now() + Duration::from_millis(1));
        assert_eq!(asked(&later), None, "who comes later is not meant");
    }
}
