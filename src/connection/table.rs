//! All open connections of a replica by session. Never keeps one that has closed.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;
use tickgate_wire::model::SessionId;

use super::{ended_users::EndedUsers, handle::ConnectionHandle};
use crate::registry::ControlInstruction;

/// Open connections, and users whose connections were just closed.
#[derive(Debug, Default)]
pub struct ConnectionTable {
    parts: [Mutex<HashMap<SessionId, Arc<ConnectionHandle>>>; 16],
    count: AtomicUsize,
    ended: EndedUsers,
}

impl ConnectionTable {
    fn part(&self, session: SessionId) -> &Mutex<HashMap<SessionId, Arc<ConnectionHandle>>> {
        &self.parts[usize::from(session.low_byte()) % self.parts.len()]
    }

    /// Adds a connection whose admission began at `since`. Returns the connection that it replaces: an older one of the
    /// same session that is still open here.
    pub fn add(&self, handle: &Arc<ConnectionHandle>, since: Instant) -> Option<Arc<ConnectionHandle>> {
        let old = self.part(handle.session).lock().insert(handle.session, handle.clone());
        if old.is_none() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        self.end_with_user(handle, since);
        old
    }

    /// Closes a connection if its user's connections were closed during its admission, which began at `since`.
    pub fn end_with_user(&self, handle: &ConnectionHandle, since: Instant) {
        if let Some((code, reason)) = handle.user().and_then(|user| self.ended.since(user, since)) {
            handle.close_on_control(code, &reason);
        }
    }

    /// Closes all connections of a user, including those being admitted.
    pub fn end_user(&self, user: &str, code: u16, reason: &str) {
        // Recorded before the search, so that a connection added meanwhile finds it.
        self.ended.add(user, (code, reason), Instant::now());
        let own = self.all().into_iter().filter(|handle| handle.user().is_some_and(|of| of.as_str() == user));
        own.for_each(|handle| handle.close_on_control(code, reason));
    }

    /// Executes a control message from any replica.
    pub fn on_control(&self, control: &ControlInstruction) {
        match control {
            ControlInstruction::Close { session, code, reason } => {
                if let Some(handle) = SessionId::parse(session).and_then(|session| self.get(session)) {
                    handle.close_on_control(*code, reason);
                }
            }
            ControlInstruction::CloseUser { user, code, reason } => self.end_user(user, *code, reason),
        }
    }

    /// Removes a connection. False if another connection has taken over its session.
    pub fn remove(&self, handle: &Arc<ConnectionHandle>) -> bool {
        let mut part = self.part(handle.session).lock();
        let own = part.get(&handle.session).is_some_and(|current| Arc::ptr_eq(current, handle));
        if own {
            part.remove(&handle.session);
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        own
    }

    /// The connection of a session.
    #[must_use]
    pub fn get(&self, session: SessionId) -> Option<Arc<ConnectionHandle>> {
        self.part(session).lock().get(&session).cloned()
    }

    /// Number of open connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether no connection is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `look` for each connection, and lets other tasks run in between: it must be short.
    pub async fn visit(&self, mut look: impl FnMut(&ConnectionHandle)) {
        for part in &self.parts {
            part.lock().values().for_each(|handle| look(handle));
            tokio::task::yield_now().await;
        }
    }

    /// All open connections.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<ConnectionHandle>> {
        self.parts.iter().flat_map(|part| part.lock().values().cloned().collect::<Vec<_>>()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tickgate_wire::{model::UserId, protocol::Protocol};

    use super::*;
    use crate::{
        config::Config,
        connection::{attempt::ConnectionId, handle::ConnectionOrigin, keep_alive::KeepAlive},
        hub::{EndpointOutboxes, MemorySocket, Outbox, OutboxSocket, QueueLimits},
        metrics::Metrics,
    };

    fn connection(user: &str) -> Arc<ConnectionHandle> {
        let limits = QueueLimits { messages_max: 10, bytes_max: 1_000 };
        let shared = EndpointOutboxes::new(limits, Metrics::new(), "trading");
        let outbox = Outbox::new(OutboxSocket::Memory(Box::new(Mutex::new(MemorySocket::default()))), shared);
        let keep_alive = KeepAlive::new(&Config::development().session, 0, 128);
        let handle = ConnectionHandle::new(
            outbox,
            SessionId::random(),
            Protocol::default(),
            keep_alive,
            0,
            ConnectionOrigin {
                id: ConnectionId::random(),
                address: [127, 0, 0, 1].into(),
                profile: Config::development().profiles[0].clone(),
                param: None,
                opened_ms: 0,
                opened_uptime_ms: 0,
                channels: Mutex::default(),
            },
        );
        handle.set_user(UserId::new(user).unwrap());
        Arc::new(handle)
    }

    #[test]
    fn all_connections_of_a_user_close_including_those_being_admitted() {
        let closed = |handle: &ConnectionHandle| handle.outbox.status().asked.map(|close| close.code);
        let table = ConnectionTable::default();
        let came = Instant::now();
        let (open, coming, other) = (connection("alice"), connection("alice"), connection("bob"));
        table.add(&open, came);
        table.end_user("alice", 4002, "");
        table.add(&coming, came);
        table.add(&other, came);
        assert_eq!([&open, &coming, &other].map(|handle| closed(handle)), [Some(4002), Some(4002), None]);
        let later = connection("alice");
        table.add(&later, Instant::now() + Duration::from_millis(1));
        assert_eq!(closed(&later), None, "a later connection is not affected");
    }
}
