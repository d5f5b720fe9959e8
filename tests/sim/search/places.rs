//! The places of sessions: the real registry of a gateway, and the connections that it tells to close. Only in runs whose
//! clients take over the place of a connection that still stands.

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tickgate::{
    config::{self, Config},
    redis_link::Topology,
    registry::{
        self, Admission, AdmissionVerdict, ConnectionInfo, ControlInstruction, LocalReplica, Registry, ReplicaAnswer,
        ReplicaFigures, SessionRecord,
    },
    tasks::Tasks,
};
use tickgate_wire::model::{ReplicaId, SessionId, UserId};
use tokio::{task::AbortHandle, time::sleep};

use crate::gateway::USER;

/// How long a session's lease lasts: it is renewed three times within.
const SESSION_TTL: Duration = Duration::from_secs(6);
const REPLICA_TTL: Duration = Duration::from_secs(4);
/// How long a client waits before it tries again.
const RETRY_AFTER: Duration = Duration::from_secs(3);
/// More than a run has connections: nobody is refused because of others.
const CONNECTIONS_MAX: u32 = 50;

static SESSION: LazyLock<config::Session> = LazyLock::new(|| config::Session {
    session_ttl: SESSION_TTL,
    replica_ttl: REPLICA_TTL,
    ..Config::development().session
});

/// The open connections of a gateway, by session.
type OpenConnections = Arc<Mutex<HashMap<SessionId, Arc<ClientPlace>>>>;

/// The sessions of one gateway.
#[derive(Clone)]
pub struct GatewayPlaces {
    registry: Registry,
    replica: ReplicaId,
    open: OpenConnections,
}

/// One connection's place, as its client sees it.
#[derive(Default)]
pub struct ClientPlace {
    /// The session that it has, and the one whose place it took, once that is known.
    chosen: Mutex<Option<(SessionId, Option<SessionId>)>>,
    closed: AtomicBool,
    /// Its client has given it up.
    left: AtomicBool,
    /// Its task.
    pub task: OnceLock<AbortHandle>,
}

impl ClientPlace {
    /// The gateway closes the connection.
    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.task.get().into_iter().for_each(AbortHandle::abort);
    }

    /// Whether the gateway closed it.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub fn session(&self) -> Option<SessionId> {
        self.chosen.lock().map(|(session, _)| session)
    }

    /// The client has made another connection: it does not try this one again.
    pub fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// Whether it took the place of that other one.
    pub fn replaces(&self, other: &Self) -> bool {
        let taken = self.chosen.lock().and_then(|(_, taken)| taken);
        taken.is_some() && taken == other.session()
    }
}

impl GatewayPlaces {
    pub fn start(topology: &Topology, replica: &ReplicaId, tasks: &Tasks) -> Self {
        let open = OpenConnections::default();
        let told = open.clone();
        let control = move |control| {
            let ControlInstruction::Close { session, .. } = control else { return };
            let session = SessionId::parse(&session).expect("a session");
            told.lock().remove(&session).into_iter().for_each(|seat| seat.close());
        };
        let local = LocalReplica {
            replica: replica.clone(),
            session: SESSION.clone(),
            control: Box::new(control),
            figures: Box::new(ReplicaFigures::default),
            answer: Box::new(|_, _| ReplicaAnswer::Closed(0)),
        };
        let registry = Registry::Redis(registry::Redis::start_on(topology, local, tasks));
        Self { registry, replica: replica.clone(), open }
    }

    /// Gives a connection its session: the one that its client wants, or a new one. The place is free again when what this
    /// returns is dropped; `None` where it was refused. Its client tries again if it is still there.
    pub async fn enter(self, seat: Arc<ClientPlace>, wanted: Option<SessionId>) -> Option<Entered> {
        let (session, taken) = loop {
            match self.admit(wanted).await {
                Some(chosen) => break chosen,
                None if seat.left.load(Ordering::Relaxed) => return None,
                None => sleep(RETRY_AFTER).await,
            }
        };
        *seat.chosen.lock() = Some((session, taken));
        let old = self.open.lock().insert(session, seat.clone());
        old.into_iter().for_each(|old| old.close());
        self.registry.opened(ConnectionInfo {
            session: session.to_string(),
            replica: self.replica.to_string(),
            user: Some(USER.to_owned()),
            profile: "trading".to_owned(),
            connected_ms: 0,
        });
        let record = SessionRecord { user: Some(USER.to_owned()), profile: "trading".to_owned(), param: None };
        self.registry.record(session, record);
        Some(Entered { places: self, seat, session })
    }

    /// The session of a connection, and the one whose place it took; `None` if it was refused.
    async fn admit(&self, wanted: Option<SessionId>) -> Option<(SessionId, Option<SessionId>)> {
        let user = UserId::new(USER).expect("a name");
        let recalled = match wanted {
            Some(wanted) => self.registry.recall(wanted).await.map(|record| record.map(|_| wanted)),
            None => Ok(None),
        };
        let (session, replaces) = match recalled {
            Ok(known) => (known.unwrap_or_else(SessionId::random), None),
            Err(_) => (SessionId::random(), wanted),
        };
        let resumed = wanted.filter(|wanted| *wanted == session);
        let admission = Admission {
            user,
            session,
            replaces,
            connections_max: CONNECTIONS_MAX,
            evict_oldest: false,
            issued_at: None,
            apart: None,
        };
        let verdict = self.registry.admit(&admission).await;
        matches!(verdict, AdmissionVerdict::Admitted { .. }).then_some((session, resumed.or(replaces)))
    }

    pub async fn leave(&self) {
        // Where the servers are away, the leases end by themselves.
        let _ = self.registry.leave().await;
    }
}

/// A connection that has its place.
pub struct Entered {
    places: GatewayPlaces,
    seat: Arc<ClientPlace>,
    session: SessionId,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut open = self.places.open.lock();
        let is_own = open.get(&self.session).is_some_and(|seat| Arc::ptr_eq(seat, &self.seat));
        if is_own {
            open.remove(&self.session);
        }
        // Where another one of the session was opened here, that one keeps the place.
        if is_own || !open.contains_key(&self.session) {
            self.places.registry.closed(self.session);
        }
    }
}
