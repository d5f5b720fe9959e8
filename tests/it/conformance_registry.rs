//! The registry's contract: what one process can show is tested over memory, one Redis server, and two servers that
//! share the users and sessions; the rest over several registries on one server or on two.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tickgate::{
    config,
    metrics::Metrics,
    redis_link::{RedisLink, Topology},
    registry::{
        self, Admission, AdmissionVerdict, ConnectionInfo, ControlInstruction, LocalReplica, Registry, ReplicaFigures,
        RevokedToken, SessionRecord, TopicPresence,
    },
    tasks::Tasks,
};
use tickgate_wire::model::{IssuedAt, ReplicaId, SessionId, Topic, UserId};
use tokio::{sync::mpsc, time::timeout};

use crate::support::{
    PATIENCE, eventually,
    follower::redis_config,
    proxy::{Proxy, Weather},
    redis::RedisServer,
};

/// One replica's registry, and the control messages that it received.
struct RegistryReplica {
    registry: Registry,
    replica: ReplicaId,
    controls: mpsc::Receiver<ControlInstruction>,
    tasks: Tasks,
}

fn session_times() -> config::Session {
    config::Session {
        heartbeat_interval: Duration::from_secs(30),
        heartbeat_timeout: Duration::from_secs(10),
        write_timeout: Duration::from_secs(10),
        resume_ttl: Duration::from_secs(2),
        age_max: Duration::ZERO,
        replica_ttl: Duration::from_millis(900),
        session_ttl: Duration::from_secs(6),
    }
}

impl RegistryReplica {
    fn new(build: impl FnOnce(LocalReplica, &Tasks) -> Registry) -> Self {
        Self::with_times(session_times(), build)
    }

    fn with_times(session: config::Session, build: impl FnOnce(LocalReplica, &Tasks) -> Registry) -> Self {
        let (told, controls) = mpsc::channel(1_024);
        let (replica, tasks) = (ReplicaId::random(), Tasks::new());
        let local = LocalReplica {
            replica: replica.clone(),
            session,
            control: Box::new(move |control| {
                let _ = told.try_send(control);
            }),
            figures: Box::new(|| ReplicaFigures {
                name: String::new(),
                connections: 3,
                subscriptions: 7,
                started_ms: 1,
                draining: false,
            }),
            answer: Box::new(|_, _| registry::ReplicaAnswer::Closed(0)),
        };
        Self { registry: build(local, &tasks), replica, controls, tasks }
    }

    fn memory() -> Self {
        Self::new(|local, _| Registry::Memory(registry::Memory::new(local)))
    }

    /// A registry on the server, once its link is up and its control channels are subscribed.
    async fn redis(server: &RedisServer) -> Self {
        Self::redis_with(server, session_times()).await
    }

    async fn redis_with(server: &RedisServer, session: config::Session) -> Self {
        Self::redis_over(server, &server.url(), session).await
    }

    async fn redis_over(server: &RedisServer, url: &str, session: config::Session) -> Self {
        let seat = Self::with_times(session, |local, tasks| {
            let link = RedisLink::start(&redis_config(url), tasks, Metrics::new());
            Registry::Redis(registry::Redis::start_on(&Topology::one(link), local, tasks))
        });
        seat.ready(std::slice::from_ref(server)).await
    }

    /// A registry on several servers that share the users and sessions.
    async fn sharded(servers: &[RedisServer]) -> Self {
        let seat = Self::new(|local, tasks| {
            let link = |server: &RedisServer| RedisLink::start(&redis_config(&server.url()), tasks, Metrics::new());
            let topology = Topology::fixed(servers.iter().map(link).collect());
            Registry::Redis(registry::Redis::start_on(&topology, local, tasks))
        });
        seat.ready(servers).await
    }

    /// Waits until the replica is registered and its control channels are subscribed.
    async fn ready(mut self, servers: &[RedisServer]) -> Self {
        let (registry, replica) = (self.registry.clone(), self.replica.clone());
        eventually("the replica in the cluster", async || {
            let figures = registry.cluster().await.ok()?;
            figures.replicas.iter().any(|(other, _)| *other == replica).then_some(())
        })
        .await;
        eventually("the control channel", async || {
            for server in servers {
                let channels: Vec<String> = server.run(&["PUBSUB", "CHANNELS", &format!("*{replica}*")]).await;
                if !channels.is_empty() {
                    return Some(());
                }
            }
            None
        })
        .await;
        // Every server responds: a ticket can be stored on each.
        for n in 0..20 {
            eventually("a ticket", async || {
                registry.put_ticket(&format!("ready{n}"), "token", Duration::from_secs(1)).await.ok()
            })
            .await;
        }
        while self.controls.try_recv().is_ok() {}
        self
    }

    async fn admit(&self, user: &str, session: SessionId, max: u32, evict_oldest: bool) -> AdmissionVerdict {
        self.admit_at(None, user, session, max, evict_oldest).await
    }

    /// Admits a session at an endpoint with a limit of its own, if one is given.
    async fn admit_at(
        &self,
        apart: Option<&str>,
        user: &str,
        session: SessionId,
        max: u32,
        evict_oldest: bool,
    ) -> AdmissionVerdict {
        let user = UserId::new(user).unwrap();
        let admission = Admission {
            user,
            session,
            replaces: None,
            apart: apart.map(Into::into),
            connections_max: max,
            evict_oldest,
            issued_at: Some(IssuedAt::in_second(u32::MAX.into())),
        };
        self.registry.admit(&admission).await
    }

    /// Admits and opens a session, like a connection.
    async fn connect(&self, user: &str, session: SessionId, max: u32) -> AdmissionVerdict {
        let verdict = self.admit(user, session, max, false).await;
        if matches!(verdict, AdmissionVerdict::Admitted { .. }) {
            self.opened(Some(user), session);
        }
        verdict
    }

    fn opened(&self, user: Option<&str>, session: SessionId) {
        self.registry.opened(ConnectionInfo {
            session: session.to_string(),
            replica: self.replica.to_string(),
            user: user.map(Into::into),
            profile: "trading".into(),
            connected_ms: 1_763_700_000_000,
        });
    }

    async fn told(&mut self) -> ControlInstruction {
        timeout(PATIENCE, self.controls.recv()).await.expect("a control message").expect("the registry to live")
    }

    async fn told_to_close(&mut self, session: SessionId, code: u16) {
        match self.told().await {
            ControlInstruction::Close { session: told, code: with, .. } => {
                assert_eq!((told, with), (session.to_string(), code));
            }
            other => panic!("told {other:?}"),
        }
    }

    /// Ends the replica without leaving, as after a kill.
    async fn die(self) {
        assert_eq!(self.tasks.end(PATIENCE).await, 0);
    }
}

/// The `number`th record of a session.
fn record(number: u64) -> SessionRecord {
    SessionRecord { user: Some("alice".into()), profile: "trading".into(), param: Some(number.to_string()) }
}

/// Waits until the session's record is in Redis; its own replica knows it earlier.
async fn written(server: &RedisServer, session: SessionId) {
    let key = format!("tg2:{{s:{session}}}:r");
    eventually("the record", async || {
        let mut commands = server.connect().await;
        redis::cmd("GET").arg(&key).query_async::<Option<String>>(&mut commands).await.ok()?
    })
    .await;
}

/// Number of the user's leases on the server; none while it does not respond.
async fn slots(server: &RedisServer, user: &str) -> u32 {
    leases(server, &format!("tg2:{{u:{user}}}:l")).await
}

async fn leases(server: &RedisServer, key: &str) -> u32 {
    let mut commands = server.connect().await;
    redis::cmd("ZCARD").arg(key).query_async(&mut commands).await.unwrap_or_default()
}

fn admitted(connections: u32) -> AdmissionVerdict {
    AdmissionVerdict::Admitted { connections, evicted: None }
}

/// Runs the same test over memory, over one Redis server, and over two.
macro_rules! over_all {
    ($($(#[$doc:meta])* $name:ident => $test:ident;)*) => {$(
        mod $name {
            use super::*;

            #[tokio::test]
            async fn memory() {
                $test(RegistryReplica::memory()).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn redis() {
                let server = RedisServer::start();
                $test(RegistryReplica::redis(&server).await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn two_shards() {
                let servers = [RedisServer::start(), RedisServer::start()];
                $test(RegistryReplica::sharded(&servers).await).await;
            }
        }
    )*};
}

over_all! {
    the_connections_of_a_user_are_limited => limits;
    an_endpoint_with_its_own_limit_counts_apart => counts_apart;
    the_oldest_connection_is_evicted_if_configured => evicts;
    a_session_replaces_its_own_previous_connection => ghosts;
    the_newest_connection_of_a_session_keeps_it => overlaps;
    a_topic_counts_its_subscribers => presence;
    users_of_a_topic_are_counted_up_to_a_bound => presence_of_many;
    a_record_outlives_its_connection_by_the_resume_window => records;
    a_ticket_is_accepted_once => tickets;
    revoked_tokens_are_refused => revokes;
    a_later_revocation_never_shortens_an_earlier_one => revokes_twice;
    an_inactive_user_is_refused_until_reported_as_active => goes_inactive;
    the_operator_sees_connections => views;
}

async fn counts_apart(mut seat: RegistryReplica) {
    let [first, second, third, shared, elsewhere] = [(); 5].map(|()| SessionId::random());
    let connect = async |apart, session, max| seat.admit_at(apart, "alice", session, max, false).await;
    let (own, refused) = (Some("tabs"), |connections| AdmissionVerdict::Refused { connections });
    assert_eq!(connect(None, shared, 1).await, admitted(1));
    assert_eq!(connect(own, first, 2).await, admitted(1), "whatever the user has elsewhere");
    assert_eq!(connect(own, second, 2).await, admitted(2));
    assert_eq!(connect(own, third, 2).await, refused(2));
    assert_eq!(connect(None, third, 1).await, refused(1), "the others count without them");
    assert_eq!(connect(Some("more"), elsewhere, 1).await, admitted(1), "each endpoint for itself");
    assert_eq!(connect(own, first, 2).await, admitted(2), "its own previous connection");
    let evicting = seat.admit_at(own, "alice", third, 2, true).await;
    let AdmissionVerdict::Admitted { connections: 2, evicted: Some(oldest) } = evicting else { panic!("{evicting:?}") };
    assert!([first, second].contains(&oldest), "only of the endpoint's own");
    seat.told_to_close(oldest, 4501).await;
    // Once for each connection that was admitted.
    (0..2).for_each(|_| seat.registry.closed(oldest));
    seat.registry.closed(third);
    eventually("the closed connection's slot", async || {
        (seat.admit_at(own, "alice", third, 2, false).await == admitted(2)).then_some(())
    })
    .await;
    assert_eq!(seat.admit_at(None, "alice", SessionId::random(), 1, false).await, refused(1));
    // A revocation concerns them all.
    seat.registry.revoke(&UserId::new("alice").unwrap(), Duration::from_secs(60)).await.done().unwrap();
    let mut closed = HashSet::new();
    while closed.len() < 4 {
        let ControlInstruction::Close { session, code: 4002, .. } = seat.told().await else { continue };
        closed.insert(session);
    }
    let left = if oldest == first { second } else { first };
    assert_eq!(closed, HashSet::from([shared, elsewhere, third, left].map(|session| session.to_string())));
}

async fn limits(seat: RegistryReplica) {
    let sessions: Vec<SessionId> = (0..3).map(|_| SessionId::random()).collect();
    assert_eq!(seat.connect("alice", sessions[0], 2).await, admitted(1));
    assert_eq!(seat.connect("alice", sessions[1], 2).await, admitted(2));
    assert_eq!(seat.connect("alice", sessions[2], 2).await, AdmissionVerdict::Refused { connections: 2 });
    assert_eq!(seat.connect("bob", SessionId::random(), 2).await, admitted(1), "another user has slots of its own");
    assert_eq!(seat.connect("carol", SessionId::random(), 0).await, AdmissionVerdict::Refused { connections: 0 });
    seat.registry.closed(sessions[0]);
    eventually("the closed connection's slot", async || {
        (seat.connect("alice", sessions[2], 2).await == admitted(2)).then_some(())
    })
    .await;
}

async fn evicts(mut seat: RegistryReplica) {
    let (first, second, third) = (SessionId::random(), SessionId::random(), SessionId::random());
    seat.connect("alice", first, 2).await;
    // The order of admission is determined by the millisecond.
    tokio::time::sleep(Duration::from_millis(2)).await;
    seat.connect("alice", second, 2).await;
    let verdict = seat.admit("alice", third, 2, true).await;
    assert_eq!(verdict, AdmissionVerdict::Admitted { connections: 2, evicted: Some(first) });
    seat.told_to_close(first, 4501).await;
}

async fn ghosts(mut seat: RegistryReplica) {
    let session = SessionId::random();
    assert_eq!(seat.connect("alice", session, 1).await, admitted(1));
    assert_eq!(seat.connect("alice", session, 1).await, admitted(1), "its own ghost does not count");
    assert_eq!(seat.connect("alice", SessionId::random(), 1).await, AdmissionVerdict::Refused { connections: 1 });
    assert!(seat.controls.try_recv().is_err(), "a replica tells two connections of one session apart by itself");
}

/// An old connection ends while the new one of the same session is about to open.
async fn overlaps(seat: RegistryReplica) {
    let session = SessionId::random();
    assert_eq!(seat.connect("alice", session, 1).await, admitted(1));
    assert_eq!(seat.admit("alice", session, 1, false).await, admitted(1));
    seat.registry.closed(session);
    seat.opened(Some("alice"), session);
    seat.registry.record(session, record(1));
    eventually("everything to be written", async || seat.registry.recall(session).await.unwrap()).await;
    assert_eq!(seat.connect("alice", SessionId::random(), 1).await, AdmissionVerdict::Refused { connections: 1 });
    // Admitted and opened again, replacing the previous connection, and then closed: nothing is left.
    assert_eq!(seat.connect("alice", session, 1).await, admitted(1));
    seat.registry.closed(session);
    eventually("the slot", async || (seat.connect("alice", SessionId::random(), 1).await == admitted(1)).then_some(()))
        .await;
    eventually("only the new connection", async || {
        (seat.registry.connections(10).await.unwrap().len() == 1).then_some(())
    })
    .await;
}

async fn presence(seat: RegistryReplica) {
    let topic = Topic::public("run:7").unwrap();
    assert_eq!(seat.registry.presence(&topic).await.unwrap(), TopicPresence::default());
    let sessions: Vec<SessionId> = (0..3).map(|_| SessionId::random()).collect();
    for (session, user) in sessions.iter().zip([Some("alice"), Some("alice"), None]) {
        if let Some(user) = user {
            seat.connect(user, *session, 5).await;
        } else {
            seat.opened(None, *session);
        }
        seat.registry.follows(*session, vec![Topic::public("logs").unwrap(), topic.clone()]);
    }
    let other = SessionId::random();
    seat.connect("bob", other, 5).await;
    seat.registry.follows(other, vec![Topic::public("run:70").unwrap()]);
    let seen = async |connections, users| {
        eventually(&format!("{connections} connections of {users} users"), async || {
            let seen = seat.registry.presence(&topic).await.unwrap();
            (seen == TopicPresence { connections, users, more: false }).then_some(())
        })
        .await;
    };
    seen(3, 1).await;
    seat.registry.follows(sessions[2], vec![]);
    seat.registry.follows(other, vec![topic.clone()]);
    seen(3, 2).await;
    sessions.iter().for_each(|session| seat.registry.closed(*session));
    seat.registry.follows(sessions[0], vec![topic.clone()]);
    seen(1, 1).await;
}

async fn presence_of_many(seat: RegistryReplica) {
    let topic = Topic::public("ticker:BTCUSDT").unwrap();
    let follow = async |users: std::ops::Range<u64>| {
        for user in users {
            let session = SessionId::random();
            seat.opened(Some(&format!("user-{user}")), session);
            seat.registry.follows(session, vec![topic.clone()]);
        }
    };
    let seen = async |expected: TopicPresence| {
        eventually(&format!("{expected:?}"), async || {
            (seat.registry.presence(&topic).await.unwrap() == expected).then_some(())
        })
        .await;
    };
    follow(0..1_024).await;
    seen(TopicPresence { connections: 1_024, users: 1_024, more: false }).await;
    follow(1_000..1_024).await;
    seen(TopicPresence { connections: 1_048, users: 1_024, more: false }).await;
    follow(1_024..1_030).await;
    seen(TopicPresence { connections: 1_054, users: 1_024, more: true }).await;
}

async fn records(seat: RegistryReplica) {
    let session = SessionId::random();
    assert_eq!(seat.registry.recall(session).await.unwrap(), None);
    seat.connect("alice", session, 5).await;
    seat.registry.record(session, record(1));
    seat.registry.record(session, record(2));
    let newest = async || (seat.registry.recall(session).await.unwrap()? == record(2)).then_some(());
    eventually("the newest record", newest).await;
    seat.registry.record(session, record(3));
    seat.registry.closed(session);
    let last = async || (seat.registry.recall(session).await.unwrap()? == record(3)).then_some(());
    eventually("the last record, although the connection closed at once", last).await;
    seat.registry.record(session, record(4));
    let gone = async || match seat.registry.recall(session).await.unwrap() {
        Some(kept) => {
            assert_eq!(kept, record(3), "nothing is recorded after the end");
            None
        }
        None => Some(()),
    };
    eventually("the end of the resume window", gone).await;
}

async fn tickets(seat: RegistryReplica) {
    let ttl = Duration::from_secs(30);
    seat.registry.put_ticket("a-ticket", "a.jwt.token", ttl).await.unwrap();
    assert_eq!(seat.registry.take_ticket("another").await.unwrap(), None);
    assert_eq!(seat.registry.take_ticket("a-ticket").await.unwrap().as_deref(), Some("a.jwt.token"));
    assert_eq!(seat.registry.take_ticket("a-ticket").await.unwrap(), None);
    seat.registry.put_ticket("short", "token", Duration::from_millis(20)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(40)).await;
    assert_eq!(seat.registry.take_ticket("short").await.unwrap(), None, "a ticket ends");
}

async fn revokes_twice(seat: RegistryReplica) {
    let (alice, brief) = (UserId::new("alice").unwrap(), Duration::from_millis(30));
    let verdict = async |user: &UserId| {
        let admission = Admission {
            user: user.clone(),
            session: SessionId::random(),
            replaces: None,
            apart: None,
            connections_max: 5,
            evict_oldest: false,
            issued_at: Some(IssuedAt::in_second(1)),
        };
        seat.registry.admit(&admission).await
    };
    seat.registry.revoke(&alice, Duration::from_secs(60)).await.done().unwrap();
    seat.registry.revoke(&alice, brief).await.done().unwrap();
    // Another user's brief one, made later, is over first.
    let bob = UserId::new("bob").unwrap();
    seat.registry.revoke(&bob, brief).await.done().unwrap();
    eventually("the brief one to be over", async || {
        (verdict(&bob).await != AdmissionVerdict::Revoked(RevokedToken::Surely)).then_some(())
    })
    .await;
    assert_eq!(verdict(&alice).await, AdmissionVerdict::Revoked(RevokedToken::Surely));
}

async fn goes_inactive(mut seat: RegistryReplica) {
    let (alice, session, long) = (UserId::new("alice").unwrap(), SessionId::random(), Duration::from_secs(600));
    assert!(!seat.registry.is_inactive(&alice).await.unwrap());
    assert_eq!(seat.connect("alice", session, 5).await, admitted(1));
    seat.registry.report(&alice, true, long).await.done().unwrap();
    seat.told_to_close(session, 4002).await;
    seat.registry.closed(session);
    let far = Some(IssuedAt::in_second(u32::MAX.into()));
    let refused = AdmissionVerdict::Revoked(RevokedToken::Surely);
    assert_eq!(seat.connect("alice", SessionId::random(), 5).await, refused, "its token is of the far future");
    assert_eq!(seat.registry.is_revoked(&alice, far).await.unwrap(), Some(RevokedToken::Surely));
    assert!(seat.registry.is_inactive(&alice).await.unwrap());
    assert_eq!(seat.connect("bob", SessionId::random(), 5).await, admitted(1));
    seat.registry.report(&alice, false, long).await.done().unwrap();
    assert_eq!(seat.registry.is_revoked(&alice, far).await.unwrap(), None);
    assert!(!seat.registry.is_inactive(&alice).await.unwrap());
    // The place of the closed connection may not be free yet.
    let verdict = seat.connect("alice", SessionId::random(), 5).await;
    assert!(matches!(verdict, AdmissionVerdict::Admitted { .. }), "{verdict:?}");
    seat.registry.report(&alice, true, Duration::from_millis(30)).await.done().unwrap();
    eventually("the report to end", async || {
        let verdict = seat.connect("alice", SessionId::random(), 50).await;
        matches!(verdict, AdmissionVerdict::Admitted { .. }).then_some(())
    })
    .await;
}

async fn revokes(mut seat: RegistryReplica) {
    let alice = UserId::new("alice").unwrap();
    let registry = seat.registry.clone();
    let admit = async |user: &UserId, session, issued_at| {
        let admission = Admission {
            user: user.clone(),
            session,
            replaces: None,
            apart: None,
            connections_max: 5,
            evict_oldest: false,
            issued_at,
        };
        registry.admit(&admission).await
    };
    // A token of an issuer whose clock is ahead.
    let (own, ahead) = (SessionId::random(), unix_ms() + 5_250);
    assert_eq!(admit(&alice, own, Some(IssuedAt::at_ms(ahead))).await, admitted(1));
    seat.opened(Some("alice"), own);
    seat.registry.revoke(&alice, Duration::from_secs(60)).await.done().unwrap();
    seat.told_to_close(own, 4002).await;
    seat.registry.closed(own);
    let whole = |ms: u64| Some(IssuedAt::in_second(ms / 1_000));
    for (issued_at, expected) in [
        (None, Some(RevokedToken::Surely)),
        (whole(ahead - 1_000), Some(RevokedToken::Surely)),
        (Some(IssuedAt::at_ms(ahead)), Some(RevokedToken::Surely)),
        (whole(ahead), Some(RevokedToken::Perhaps)),
        (Some(IssuedAt::at_ms(ahead + 1)), None),
        (whole(ahead + 1_000), None),
    ] {
        let asked = seat.registry.is_revoked(&alice, issued_at).await.unwrap();
        assert_eq!(asked, expected, "issued at {issued_at:?}, revoked at {ahead}");
        let session = SessionId::random();
        let verdict = admit(&alice, session, issued_at).await;
        seat.registry.closed(session);
        match expected {
            Some(revoked) => assert_eq!(verdict, AdmissionVerdict::Revoked(revoked), "issued at {issued_at:?}"),
            None => {
                assert!(matches!(verdict, AdmissionVerdict::Admitted { .. }), "issued at {issued_at:?}: {verdict:?}");
            }
        }
    }
    // A token that takes the place of another one of the session is one of the user's as well.
    let session = SessionId::random();
    let verdict = admit(&alice, session, Some(IssuedAt::at_ms(ahead + 1))).await;
    assert!(matches!(verdict, AdmissionVerdict::Admitted { .. }), "{verdict:?}");
    seat.opened(Some("alice"), session);
    seat.registry.reissued(session, Some(IssuedAt::at_ms(ahead + 9_000)));
    let closed = |control: &ControlInstruction| matches!(control, ControlInstruction::Close { session: told, .. } if *told == session.to_string());
    while let Ok(control) = seat.controls.try_recv() {
        assert!(!closed(&control), "a token that is newer was refused");
    }
    seat.registry.reissued(session, Some(IssuedAt::at_ms(ahead)));
    while !closed(&seat.told().await) {}
    assert_eq!(seat.connect("bob", SessionId::random(), 5).await, admitted(1));
}

fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

async fn views(seat: RegistryReplica) {
    let (alice, anonymous) = (SessionId::random(), SessionId::random());
    seat.connect("alice", alice, 5).await;
    seat.connect("alice", SessionId::random(), 5).await;
    seat.opened(None, anonymous);
    let seen = eventually("three connections", async || {
        let seen = seat.registry.connections(10).await.unwrap();
        (seen.len() == 3).then_some(seen)
    })
    .await;
    let info = seen.iter().find(|info| info.session == alice.to_string()).expect("alice's session");
    assert_eq!((info.user.as_deref(), info.profile.as_str()), (Some("alice"), "trading"));
    assert_eq!((info.connected_ms, info.replica.as_str()), (1_763_700_000_000, seat.replica.as_str()));
    assert_eq!(seat.registry.connections(2).await.unwrap().len(), 2);
    assert_eq!(seat.registry.users(10).await.unwrap().into_iter().collect::<Vec<_>>(), vec![("alice".to_owned(), 2)]);
    let cluster = seat.registry.cluster().await.unwrap();
    assert_eq!(cluster.replicas.len(), 1);
    assert_eq!(cluster.replicas[0].1.subscriptions, 7);
    seat.registry.closed(anonymous);
    eventually("two connections", async || (seat.registry.connections(10).await.unwrap().len() == 2).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_counts_over_all_replicas() {
    let server = RedisServer::start();
    let (one, other) =
        (Arc::new(RegistryReplica::redis(&server).await), Arc::new(RegistryReplica::redis(&server).await));
    let attempts = (0..40).map(|index| {
        let seat = Arc::clone(if index % 2 == 0 { &one } else { &other });
        async move { seat.connect("alice", SessionId::random(), 5).await }
    });
    let verdicts = futures_util::future::join_all(attempts).await;
    let admitted = verdicts.iter().filter(|verdict| matches!(verdict, AdmissionVerdict::Admitted { .. })).count();
    assert_eq!(admitted, 5, "however many come at once, on whichever replica");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_moves_is_closed_where_it_was() {
    let server = RedisServer::start();
    let (mut one, other) = (RegistryReplica::redis(&server).await, RegistryReplica::redis(&server).await);
    let session = SessionId::random();
    one.connect("alice", session, 1).await;
    assert_eq!(other.connect("alice", session, 1).await, admitted(1), "never refused because of itself");
    one.told_to_close(session, 4501).await;
    // The old replica's clean-up leaves the new connection alone.
    one.registry.closed(session);
    eventually("the old replica's index to be empty", async || {
        let seen = one.registry.connections(10).await.unwrap();
        (seen.len() == 1 && seen[0].replica == other.replica.as_str()).then_some(())
    })
    .await;
    let own = one.registry.connections(10).await.unwrap();
    assert_eq!(own.iter().map(|info| info.replica.as_str()).collect::<Vec<_>>(), [other.replica.as_str()]);
    assert_eq!(one.connect("alice", SessionId::random(), 1).await, AdmissionVerdict::Refused { connections: 1 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_anonymous_session_that_moves_is_closed_where_it_was() {
    let server = RedisServer::start();
    let (mut one, other) = (RegistryReplica::redis(&server).await, RegistryReplica::redis(&server).await);
    let session = SessionId::random();
    one.opened(None, session);
    one.registry.record(session, record(1));
    eventually("the record", async || other.registry.recall(session).await.unwrap()).await;
    other.opened(None, session);
    other.registry.record(session, record(2));
    one.told_to_close(session, 4501).await;
    one.registry.record(session, record(9));
    one.told_to_close(session, 4501).await;
    one.registry.closed(session);
    one.registry.leave().await.unwrap();
    let kept = other.registry.recall(session).await.unwrap();
    assert_eq!(kept, Some(record(2)), "the old connection writes over nothing of the new one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_a_topic_are_counted_once_over_all_replicas_and_up_to_a_bound() {
    let server = RedisServer::start();
    let (one, other) = (RegistryReplica::redis(&server).await, RegistryReplica::redis(&server).await);
    let topic = Topic::public("ticker:BTCUSDT").unwrap();
    let follow = async |seat: &RegistryReplica, user: &str| {
        let session = SessionId::random();
        seat.opened(Some(user), session);
        seat.registry.follows(session, vec![topic.clone()]);
    };
    for (seat, user) in [(&one, "alice"), (&other, "alice"), (&other, "bob")] {
        follow(seat, user).await;
    }
    assert_eq!(one.registry.presence(&topic).await.unwrap(), TopicPresence { connections: 3, users: 2, more: false });
    // Exactly as many as are counted, half of them on both; then one more.
    for n in 2..1_024 {
        follow(&one, &format!("user-{n}")).await;
        if n < 512 {
            follow(&other, &format!("user-{n}")).await;
        }
    }
    let seen = async |expected: TopicPresence| {
        for seat in [&one, &other] {
            eventually(&format!("{expected:?}"), async || {
                (seat.registry.presence(&topic).await.unwrap() == expected).then_some(())
            })
            .await;
        }
    };
    seen(TopicPresence { connections: 1_535, users: 1_024, more: false }).await;
    follow(&other, "one too many").await;
    seen(TopicPresence { connections: 1_536, users: 1_024, more: true }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_connection_is_evicted_on_any_replica() {
    let server = RedisServer::start();
    let (mut one, other) = (RegistryReplica::redis(&server).await, RegistryReplica::redis(&server).await);
    let (first, second) = (SessionId::random(), SessionId::random());
    // The replica of the oldest has the same rule, for a renewal that finds its place taken before the message comes.
    one.admit("alice", first, 1, true).await;
    one.opened(Some("alice"), first);
    let verdict = other.admit("alice", second, 1, true).await;
    assert_eq!(verdict, AdmissionVerdict::Admitted { connections: 1, evicted: Some(first) });
    one.told_to_close(first, 4501).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_replica_is_swept_by_another() {
    let server = RedisServer::start();
    let (one, other) = (RegistryReplica::redis(&server).await, RegistryReplica::redis(&server).await);
    one.connect("alice", SessionId::random(), 1).await;
    one.opened(None, SessionId::random());
    let replica = one.replica.clone();
    eventually("the index", async || (other.registry.connections(10).await.unwrap().len() == 2).then_some(())).await;
    assert_eq!(other.connect("alice", SessionId::random(), 1).await, AdmissionVerdict::Refused { connections: 1 });
    let killed = tokio::time::Instant::now();
    one.die().await;
    eventually("the slot to come back", async || {
        (other.connect("alice", SessionId::random(), 1).await == admitted(1)).then_some(())
    })
    .await;
    let times = session_times();
    assert!(killed.elapsed() < times.session_ttl, "by the sweep, not by the end of the session's own lease");
    eventually("nothing to be left of the replica", async || {
        let mut commands = server.connect().await;
        let keys: Vec<String> =
            redis::cmd("KEYS").arg(format!("*{replica}*")).query_async(&mut commands).await.unwrap();
        let cluster = other.registry.cluster().await.unwrap();
        (keys.is_empty() && cluster.replicas.len() == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_with_its_own_limit_counts_over_replicas_and_without_redis() {
    let mut server = RedisServer::start();
    let (one, other) = (RegistryReplica::redis(&server).await, RegistryReplica::redis(&server).await);
    let own = Some("trading");
    let connect = async |seat: &RegistryReplica, apart, max| {
        let session = SessionId::random();
        let verdict = seat.admit_at(apart, "alice", session, max, false).await;
        if matches!(verdict, AdmissionVerdict::Admitted { .. }) {
            seat.opened(Some("alice"), session);
        }
        verdict
    };
    let refused = |connections| AdmissionVerdict::Refused { connections };
    assert_eq!(connect(&one, own, 2).await, admitted(1));
    assert_eq!(connect(&other, own, 2).await, admitted(2));
    assert_eq!(connect(&other, None, 1).await, admitted(1));
    assert_eq!(connect(&one, own, 2).await, refused(2));
    eventually("the index", async || (other.registry.connections(9).await.ok()?.len() == 3).then_some(())).await;
    let killed = tokio::time::Instant::now();
    one.die().await;
    eventually("the place of the killed one", async || (connect(&other, own, 2).await == admitted(2)).then_some(()))
        .await;
    assert!(killed.elapsed() < session_times().session_ttl, "by the sweep, not by the end of the session's own lease");
    server.kill();
    assert_eq!(connect(&other, own, 2).await, refused(2), "by its own count");
    assert_eq!(connect(&other, None, 1).await, refused(1));
    server.restart();
    eventually("all to be counted again", async || {
        let counts = [leases(&server, "tg2:{u:alice}:l:trading").await, slots(&server, "alice").await];
        (counts == [2, 1]).then_some(())
    })
    .await;
    assert_eq!(connect(&other, own, 2).await, refused(2));
}

/// The index used by a sweep is written shortly after a connection was admitted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_killed_while_admitting_connections_leaves_no_place_taken() {
    let server = RedisServer::start();
    let (one, other) = (RegistryReplica::redis(&server).await, RegistryReplica::redis(&server).await);
    let user = |number: u32| format!("user_{number}");
    for number in 0..10 {
        assert_eq!(one.admit(&user(number), SessionId::random(), 1, false).await, admitted(1));
    }
    for number in 10..20 {
        assert_eq!(one.connect(&user(number), SessionId::random(), 1).await, admitted(1));
    }
    one.die().await;
    let killed = tokio::time::Instant::now();
    for number in 0..20 {
        eventually("the slot to come back", async || {
            (other.connect(&user(number), SessionId::random(), 1).await == admitted(1)).then_some(())
        })
        .await;
    }
    assert!(killed.elapsed() < session_times().session_ttl, "before the end of a connection's own lease");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_of_a_single_killed_replica_expire() {
    let server = RedisServer::start();
    let times = config::Session { session_ttl: Duration::from_millis(600), ..session_times() };
    let one = RegistryReplica::redis_with(&server, times).await;
    let session = SessionId::random();
    one.connect("alice", session, 1).await;
    one.registry.record(session, record(1));
    written(&server, session).await;
    one.die().await;
    let mut commands = server.connect().await;
    eventually("every key of the sessions and the replica to end", async || {
        let keys: Vec<String> = redis::cmd("KEYS").arg("tg2:*").query_async(&mut commands).await.unwrap();
        keys.iter().all(|key| key == "tg2:{gen}").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_renewed_while_the_connection_is_open() {
    let server = RedisServer::start();
    let times = config::Session { session_ttl: Duration::from_millis(1_500), ..session_times() };
    let one = RegistryReplica::redis_with(&server, times).await;
    let (session, anonymous) = (SessionId::random(), SessionId::random());
    one.connect("alice", session, 1).await;
    one.opened(None, anonymous);
    one.registry.record(anonymous, record(1));
    let end_ms = async || {
        let leases: Vec<(String, f64)> = server.run(&["ZRANGE", "tg2:{u:alice}:l", "0", "-1", "WITHSCORES"]).await;
        leases.first().map(|(_, end_ms)| *end_ms)
    };
    let first = eventually("the lease", end_ms).await;
    eventually("the lease to last twice as long as it would by itself", async || {
        end_ms().await.filter(|end_ms| *end_ms > first + 3_000.0)
    })
    .await;
    assert_eq!(one.admit("alice", SessionId::random(), 1, false).await, AdmissionVerdict::Refused { connections: 1 });
    written(&server, anonymous).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_lost_its_place_unnoticed_is_closed_at_its_next_renewal() {
    let server = RedisServer::start();
    let times = config::Session { session_ttl: Duration::from_secs(3), ..session_times() };
    let mut one = RegistryReplica::redis_with(&server, times).await;
    let (kept, lost) = (SessionId::random(), SessionId::random());
    one.connect("alice", kept, 1).await;
    one.connect("bob", lost, 1).await;
    // As if the replica had slept through both leases, and another connection had taken bob's place meanwhile.
    let mut commands = server.connect().await;
    let (other, end_ms) = (format!("1763700000000:elsewhere:{}", SessionId::random()), u32::MAX as u64 * 1_000);
    // In one step, or a renewal in between would restore bob's place.
    let mut step = redis::pipe();
    step.atomic().del(&["tg2:{u:alice}:l", "tg2:{u:bob}:l"]).zadd("tg2:{u:bob}:l", other, end_ms);
    let _: (i64, i64) = step.query_async(&mut commands).await.unwrap();
    one.told_to_close(lost, 4003).await;
    eventually("alice, who has room, to be back in", async || {
        let count: u32 = redis::cmd("ZCARD").arg("tg2:{u:alice}:l").query_async(&mut commands).await.ok()?;
        (count == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_written_again_to_a_redis_that_lost_it() {
    let mut server = RedisServer::start();
    let one = RegistryReplica::redis(&server).await;
    let session = SessionId::random();
    one.connect("alice", session, 1).await;
    one.registry.record(session, record(7));
    written(&server, session).await;
    server.kill();
    server.restart();
    written(&server, session).await;
    let kept = eventually("the record again", async || one.registry.recall(session).await.ok()?).await;
    assert_eq!(kept, record(7));
    eventually("the slot to be taken again", async || (slots(&server, "alice").await == 1).then_some(())).await;
    eventually("the index again", async || (one.registry.connections(10).await.ok()?.len() == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_written_again_to_an_emptied_redis() {
    let server = RedisServer::start();
    let one = RegistryReplica::redis(&server).await;
    let session = SessionId::random();
    one.connect("alice", session, 1).await;
    one.registry.record(session, record(7));
    written(&server, session).await;
    let _: String = server.run(&["FLUSHALL"]).await;
    written(&server, session).await;
    let kept = eventually("the record again", async || one.registry.recall(session).await.ok()?).await;
    assert_eq!(kept, record(7));
    eventually("the index again", async || (one.registry.connections(10).await.ok()?.len() == 1).then_some(())).await;
    assert_eq!(one.connect("alice", SessionId::random(), 1).await, AdmissionVerdict::Refused { connections: 1 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_lost_a_move_does_not_close_the_newest_connection() {
    let mut server = RedisServer::durable();
    let (mut one, mut other) = (RegistryReplica::redis(&server).await, RegistryReplica::redis(&server).await);
    let session = SessionId::random();
    one.connect("alice", session, 5).await;
    one.registry.record(session, record(7));
    written(&server, session).await;
    let before_the_move = server.snapshot();
    other.registry.recall(session).await.expect("an answer").expect("the record");
    other.connect("alice", session, 5).await;
    other.registry.record(session, record(9));
    one.told_to_close(session, 4501).await;
    // The old connection is still open when Redis returns with the earlier state.
    server.restart_from(&before_the_move);
    eventually("the move to be told again", async || {
        let found = other.registry.recall(session).await.ok()??;
        (found == record(9)).then_some(())
    })
    .await;
    one.told_to_close(session, 4501).await;
    assert!(other.controls.try_recv().is_err(), "the newest connection stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_closed_while_redis_was_away_are_released_when_it_is_back() {
    let mut server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let one = RegistryReplica::redis(&server).await;
    let session = SessionId::random();
    one.connect("alice", session, 1).await;
    eventually("the index", async || (one.registry.connections(10).await.ok()?.len() == 1).then_some(())).await;
    server.kill();
    let user = UserId::new("alice").unwrap();
    let doubtful = Admission {
        user,
        session: SessionId::random(),
        replaces: None,
        apart: None,
        connections_max: 1,
        evict_oldest: false,
        issued_at: None,
    };
    assert_eq!(one.registry.admit(&doubtful).await, AdmissionVerdict::Refused { connections: 1 }, "by its own count");
    one.registry.closed(session);
    server.restart();
    eventually("the slot", async || (slots(&server, "alice").await == 0).then_some(())).await;
    assert_eq!(one.registry.admit(&doubtful).await, admitted(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_messages_reach_their_connections() {
    let server = RedisServer::start();
    let (mut one, mut other) = (RegistryReplica::redis(&server).await, RegistryReplica::redis(&server).await);
    let session = SessionId::random();
    one.connect("alice", session, 5).await;
    one.registry.record(session, record(1));
    eventually("the record", async || other.registry.recall(session).await.unwrap()).await;
    let close =
        ControlInstruction::Close { session: session.to_string(), code: 4500, reason: "by the operator".into() };
    other.registry.control(close.clone()).await.done().unwrap();
    assert_eq!(one.told().await, close);
    let all = ControlInstruction::CloseUser { user: "alice".into(), code: 4500, reason: "by the operator".into() };
    other.registry.control(all.clone()).await.done().unwrap();
    assert_eq!(one.told().await, all);
    assert_eq!(other.told().await, all, "a user may be anywhere, also here; a session is at one place");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_named_lease_has_one_holder() {
    let server = RedisServer::start();
    let (one, other) = (RegistryReplica::redis(&server).await, RegistryReplica::redis(&server).await);
    let ttl = Duration::from_secs(30);
    let first = one.registry.hold("feed", ttl, 0).await.unwrap();
    assert!(first.is_some());
    assert_eq!(other.registry.hold("feed", ttl, 0).await.unwrap(), None);
    assert_eq!(one.registry.hold("feed", ttl, 0).await.unwrap(), first, "renewed by its holder, in the same turn");
    let raised = one.registry.hold("feed", ttl, first.unwrap() + 5).await.unwrap();
    assert!(raised > first.map(|number| number + 5), "a turn after one that was heard of");
    one.registry.leave().await.unwrap();
    let second = other.registry.hold("feed", ttl, 0).await.unwrap();
    assert!(second.is_some(), "free at once when its holder leaves");
    assert!(second > raised, "each turn has a greater number than the one before");
    let brief = Duration::from_millis(30);
    assert!(other.registry.hold("brief", brief, 0).await.unwrap().is_some());
    let third = RegistryReplica::redis(&server).await;
    eventually("the lease to end by itself", async || third.registry.hold("brief", brief, 0).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_names_wanted_of_a_feed_are_the_union_over_live_replicas() {
    let server = RedisServer::start();
    let (one, other) = (RegistryReplica::redis(&server).await, RegistryReplica::redis(&server).await);
    let want = async |seat: &RegistryReplica, names: &[&str], ttl: Duration, read: bool| {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut wanted = seat.registry.want("feed", &names, ttl, read).await.unwrap();
        wanted.sort();
        wanted
    };
    let (long, brief) = (Duration::from_secs(30), Duration::from_millis(50));
    assert_eq!(want(&one, &["A", "B"], long, false).await, Vec::<String>::new(), "nothing is read unless asked for");
    assert_eq!(want(&other, &["B", "C"], brief, true).await, ["A", "B", "C"]);
    // The shorter request does not end an earlier one, and expires separately.
    eventually("the wish to end by itself", async || {
        (want(&one, &["A"], long, true).await == ["A", "B"]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaving_replica_ends_its_leases_but_keeps_records() {
    let server = RedisServer::start();
    let (one, other) = (RegistryReplica::redis(&server).await, RegistryReplica::redis(&server).await);
    let session = SessionId::random();
    one.connect("alice", session, 1).await;
    one.registry.record(session, record(5));
    one.registry.leave().await.unwrap();
    assert_eq!(other.registry.cluster().await.unwrap().replicas.len(), 1);
    assert_eq!(other.connect("alice", SessionId::random(), 1).await, admitted(1));
    let kept = other.registry.recall(session).await.unwrap();
    assert_eq!(kept, Some(record(5)), "so that its clients can resume elsewhere");
}

#[tokio::test]
async fn operator_commands_reach_a_disconnected_replica_when_it_is_back() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let one = RegistryReplica::redis(&server).await;
    let mut two = RegistryReplica::redis_over(&server, &proxy.url(), session_times()).await;
    let [alice, later, somebody, bob] = std::array::from_fn(|_| SessionId::random());
    two.connect("alice", alice, 5).await;
    two.connect("bob", bob, 5).await;
    two.opened(None, somebody);
    two.registry.record(somebody, record(1));
    eventually("the others to know of them", async || {
        (one.registry.connections(9).await.ok()?.len() == 3).then_some(())
    })
    .await;
    proxy.set(Weather::Refuse);
    let (code, reason) = (4500, "maintenance".to_owned());
    let user = ControlInstruction::CloseUser { user: "alice".into(), code, reason: reason.clone() };
    one.registry.control(user).await.done().expect("told");
    let session = ControlInstruction::Close { session: somebody.to_string(), code, reason };
    one.registry.control(session).await.done().expect("told");
    // A later connection is not affected. A disconnected replica knows the time of Redis from its last reading, which
    // was late by as long as the response took.
    tokio::time::sleep(Duration::from_secs(1)).await;
    two.opened(Some("alice"), later);
    proxy.set(Weather::Pass { delay: Duration::ZERO });
    let meant = [alice, somebody].map(|session| session.to_string());
    let mut closed = HashSet::new();
    let mut close = |control| match control {
        ControlInstruction::Close { session, code: 4500, reason }
            if reason == "maintenance" && meant.contains(&session) =>
        {
            closed.insert(session);
            closed.len()
        }
        other => panic!("told {other:?}"),
    };
    while close(two.told().await) < meant.len() {}
    let present = async || {
        let all = one.registry.connections(9).await.ok()?;
        all.iter().any(|info| info.session == later.to_string()).then_some(())
    };
    eventually("all are told to redis again", present).await;
    // On a busy machine, a replica that must attach again receives messages for those that are still there, and no
    // others.
    while let Ok(control) = two.controls.try_recv() {
        close(control);
    }
}

/// 640 topics are ten questions: callers that ask about many leave others their turn.
#[tokio::test]
async fn questions_about_many_topics_are_asked_together() {
    let server = RedisServer::start();
    let one = RegistryReplica::redis(&server).await;
    let session = SessionId::random();
    one.opened(Some("alice"), session);
    one.registry.follows(session, vec![Topic::public("ticker:S7").unwrap()]);
    let topics: Vec<_> = (0..640).map(|n| Topic::public(&format!("ticker:S{n}")).unwrap()).collect();
    let answers = futures_util::future::join_all(topics.iter().map(|topic| one.registry.presence(topic))).await;
    for (topic, answer) in topics.iter().zip(answers) {
        let expected = u64::from(topic.as_str() == "ticker:S7");
        assert_eq!(answer.unwrap(), TopicPresence { connections: expected, users: expected, more: false }, "{topic}");
    }
}

/// A killed replica over two servers, with users and sessions on both; then one of the servers dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_over_two_servers_sweep_both_and_lose_only_what_a_dead_one_has() {
    use tickgate::redis_link::Placement;
    let mut servers = [RedisServer::start(), RedisServer::start()];
    let (one, other) = (RegistryReplica::sharded(&servers).await, RegistryReplica::sharded(&servers).await);
    let users: Vec<_> = (0..20).map(|n| format!("user-{n}")).collect();
    for user in &users {
        let session = SessionId::random();
        assert_eq!(one.connect(user, session, 1).await, admitted(1));
        one.registry.record(session, record(1));
        assert_eq!(other.connect(user, SessionId::random(), 1).await, AdmissionVerdict::Refused { connections: 1 });
        eventually("the record", async || other.registry.recall(session).await.unwrap()).await;
    }
    eventually("the index", async || (other.registry.connections(99).await.unwrap().len() == 20).then_some(())).await;
    assert_eq!(other.registry.connections(7).await.unwrap().len(), 7);
    for server in &servers {
        let leases: Vec<String> = server.run(&["KEYS", "*{u:*"]).await;
        assert!(leases.len() > 3, "each server has its share: {leases:?}");
    }
    let (replica, killed) = (one.replica.clone(), tokio::time::Instant::now());
    one.die().await;
    for user in &users {
        eventually("the slot to come back", async || {
            (other.connect(user, SessionId::random(), 1).await == admitted(1)).then_some(())
        })
        .await;
    }
    assert!(killed.elapsed() < session_times().session_ttl, "by the sweep, not by the end of the leases");
    for server in &servers {
        eventually("nothing to be left of the replica", async || {
            let keys: Vec<String> = server.run(&["KEYS", &format!("*{replica}*")]).await;
            keys.is_empty().then_some(())
        })
        .await;
    }
    // The server with the replicas' leases stays; the other one dies.
    let placement = Placement::over(2);
    let dead = 1 - placement.shard("replicas");
    servers[dead].kill();
    for user in &users {
        let admission = Admission {
            user: UserId::new(user).unwrap(),
            session: SessionId::random(),
            replaces: None,
            apart: None,
            connections_max: 1,
            evict_oldest: false,
            issued_at: None,
        };
        // If counting over all replicas is impossible, this replica counts its own.
        assert_eq!(other.registry.admit(&admission).await, AdmissionVerdict::Refused { connections: 1 }, "{user}");
    }
    let standing = users.iter().filter(|user| placement.shard(user) != dead).count();
    assert!((1..20).contains(&standing));
    // Restarted empty: its share is registered again.
    servers[dead].restart();
    eventually("all slots to be taken again", async || {
        (other.registry.connections(99).await.ok()?.len() == 20).then_some(())
    })
    .await;
    for user in &users {
        eventually("the slot", async || {
            (other.admit(user, SessionId::random(), 1, false).await == AdmissionVerdict::Refused { connections: 1 })
                .then_some(())
        })
        .await;
    }
}

/// A server behind a proxy that can be cut, with two registries.
async fn two_behind_a_proxy(server: &RedisServer) -> (Proxy, RegistryReplica, RegistryReplica) {
    let proxy = Proxy::start(server.port()).await;
    let one = RegistryReplica::redis_over(server, &proxy.url(), session_times()).await;
    let other = RegistryReplica::redis_over(server, &proxy.url(), session_times()).await;
    (proxy, one, other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_a_replica_enforces_the_limit_by_its_own_count() {
    let mut server = RedisServer::start();
    let one = RegistryReplica::redis(&server).await;
    for count in 1..=3 {
        assert_eq!(one.connect("alice", SessionId::random(), 5).await, admitted(count));
    }
    server.kill();
    let many = (0..150).map(|_| one.connect("alice", SessionId::random(), 5));
    let verdicts = futures_util::future::join_all(many).await;
    let let_in = verdicts.iter().filter(|verdict| matches!(verdict, AdmissionVerdict::Admitted { .. })).count();
    assert_eq!(let_in, 2, "two more make five");
    assert_eq!(one.connect("bob", SessionId::random(), 5).await, admitted(1), "others are not affected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_full_a_replica_enforces_the_limit_by_its_own_count() {
    let server = RedisServer::start();
    let mut one = RegistryReplica::redis(&server).await;
    let sessions: Vec<SessionId> = (0..5).map(|_| SessionId::random()).collect();
    for session in &sessions[..2] {
        one.connect("alice", *session, 3).await;
    }
    let _: String = server.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_eq!(one.connect("alice", sessions[2], 3).await, admitted(3));
    assert_eq!(one.connect("alice", sessions[3], 3).await, AdmissionVerdict::Refused { connections: 3 });
    let gives_way = one.admit("alice", sessions[4], 3, true).await;
    assert_eq!(gives_way, AdmissionVerdict::Admitted { connections: 3, evicted: Some(sessions[0]) });
    one.told_to_close(sessions[0], 4501).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_redis_is_back_the_older_connections_stay_in_any_order_of_counting() {
    let mut server = RedisServer::start();
    let (one, mut other) = (RegistryReplica::redis(&server).await, RegistryReplica::redis(&server).await);
    for _ in 0..5 {
        one.connect("alice", SessionId::random(), 5).await;
    }
    server.kill();
    let late: Vec<SessionId> = (0..3).map(|_| SessionId::random()).collect();
    for session in &late {
        assert!(matches!(other.connect("alice", *session, 5).await, AdmissionVerdict::Admitted { .. }));
    }
    server.restart();
    let mut told = Vec::new();
    for _ in &late {
        match other.told().await {
            ControlInstruction::Close { session, code: 4003, .. } => told.push(SessionId::parse(&session).unwrap()),
            elsewhere => panic!("told {elsewhere:?}"),
        }
        other.registry.closed(told[told.len() - 1]);
    }
    told.sort_unstable_by_key(SessionId::to_string);
    let mut expected = late;
    expected.sort_unstable_by_key(SessionId::to_string);
    assert_eq!(told, expected);
    eventually("the five older ones", async || (slots(&server, "alice").await == 5).then_some(())).await;
    let mut one = one;
    assert!(one.controls.try_recv().is_err(), "the older connections hear nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_redis_is_back_the_oldest_is_evicted_if_configured() {
    let mut server = RedisServer::start();
    let (mut one, other) = (RegistryReplica::redis(&server).await, RegistryReplica::redis(&server).await);
    let [oldest, newer, late] = [(); 3].map(|()| SessionId::random());
    for session in [oldest, newer] {
        one.admit("alice", session, 2, true).await;
        one.opened(Some("alice"), session);
    }
    server.kill();
    assert_eq!(other.admit("alice", late, 2, true).await, admitted(1));
    other.opened(Some("alice"), late);
    server.restart();
    one.told_to_close(oldest, 4501).await;
    one.registry.closed(oldest);
    eventually("the two newest", async || (slots(&server, "alice").await == 2).then_some(())).await;
    // Both replicas may find that the oldest has to go, before it has gone.
    while let Ok(control) = one.controls.try_recv() {
        let of_oldest = matches!(&control, ControlInstruction::Close { session, .. } if *session == oldest.to_string());
        assert!(of_oldest, "the newer one stays: {control:?}");
    }
}

/// A connection of alice whose client named a session that could not be looked up.
fn in_place_of(former: SessionId, session: SessionId, connections_max: u32) -> Admission {
    Admission {
        user: UserId::new("alice").unwrap(),
        session,
        replaces: Some(former),
        apart: None,
        connections_max,
        evict_oldest: false,
        issued_at: Some(IssuedAt::in_second(1)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_takes_the_place_of_the_session_it_named_if_only_the_lookup_failed() {
    let server = RedisServer::start();
    let (mut one, mut other) = (RegistryReplica::redis(&server).await, RegistryReplica::redis(&server).await);
    let [former, late] = [(); 2].map(|()| SessionId::random());
    assert_eq!(one.connect("alice", former, 1).await, admitted(1));
    assert_eq!(other.registry.admit(&in_place_of(former, late, 1)).await, admitted(1), "its place is the only one");
    other.opened(Some("alice"), late);
    one.told_to_close(former, 4501).await;
    one.registry.closed(former);
    eventually("the newcomer alone", async || (slots(&server, "alice").await == 1).then_some(())).await;
    assert!(other.controls.try_recv().is_err(), "the newcomer stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_redis_is_back_a_connection_takes_the_place_of_the_session_it_named() {
    let server = RedisServer::start();
    let (proxy, mut one, mut other) = two_behind_a_proxy(&server).await;
    let [former, second, late] = [(); 3].map(|()| SessionId::random());
    for session in [former, second] {
        assert!(matches!(one.connect("alice", session, 2).await, AdmissionVerdict::Admitted { .. }));
        one.registry.record(session, record(1));
    }
    eventually("the record", async || other.registry.recall(former).await.ok()?).await;
    proxy.set(Weather::Refuse);
    eventually("the server to be away", async || other.registry.recall(former).await.err()).await;
    eventually("it to be away for both", async || one.registry.recall(late).await.err()).await;
    assert!(one.registry.recall(former).await.unwrap().is_some(), "a replica knows its own sessions without redis");
    assert_eq!(other.registry.admit(&in_place_of(former, late, 2)).await, admitted(1));
    other.opened(Some("alice"), late);
    proxy.set(Weather::CLEAR);
    one.told_to_close(former, 4501).await;
    one.registry.closed(former);
    eventually("the two that are left", async || {
        let found = other.registry.connections(9).await.ok()?;
        let mut found: Vec<String> = found.into_iter().map(|info| info.session).collect();
        let mut expected = [second, late].map(|session| session.to_string());
        found.sort();
        expected.sort();
        (found == expected).then_some(())
    })
    .await;
    assert!(other.controls.try_recv().is_err(), "the newcomer stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_never_sees_a_ticket_or_its_token() {
    let server = RedisServer::start();
    let one = RegistryReplica::redis(&server).await;
    one.registry.put_ticket("the-ticket", "the-token", Duration::from_secs(60)).await.unwrap();
    let keys: Vec<String> = server.run(&["KEYS", "*ticket*"]).await;
    assert_eq!(keys.iter().filter(|key| key.contains("the-ticket")).count(), 0, "{keys:?}");
    for key in keys {
        let value: Vec<u8> = server.run(&["GET", &key]).await;
        assert!(!value.windows(9).any(|bytes| bytes == b"the-token"), "{key}");
    }
    assert_eq!(one.registry.take_ticket("the-ticket").await.unwrap().as_deref(), Some("the-token"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_applies_on_every_replica_that_received_it_whatever_redis_loses() {
    let mut server = RedisServer::start();
    let (one, mut other) = (RegistryReplica::redis(&server).await, RegistryReplica::redis(&server).await);
    let alice = UserId::new("alice").unwrap();
    let session = SessionId::random();
    other.connect("alice", session, 5).await;
    one.registry.revoke(&alice, Duration::from_secs(60)).await.done().unwrap();
    other.told_to_close(session, 4002).await;
    let old = Some(IssuedAt::in_second(u32::MAX.into()));
    // The newest known token is refused by every replica that knows it.
    eventually("the others to hear of the token", async || one.registry.is_revoked(&alice, old).await.unwrap()).await;
    let _: String = server.run(&["FLUSHALL"]).await;
    for seat in [&one, &other] {
        let verdict = seat.connect("alice", SessionId::random(), 5).await;
        assert_eq!(verdict, AdmissionVerdict::Revoked(RevokedToken::Perhaps), "the second of the newest token");
        assert_eq!(seat.registry.is_revoked(&alice, None).await.unwrap(), Some(RevokedToken::Surely));
    }
    server.restart_empty();
    let written = async || server.run::<Option<u64>>(&["GET", "tg2:{u:alice}:r"]).await;
    assert_eq!(eventually("it to be written again", written).await, u64::from(u32::MAX) * 1_000);
    let left: i64 = server.run(&["PTTL", "tg2:{u:alice}:r"]).await;
    assert!((1..=60_000).contains(&left), "{left} ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_closes_what_it_can_while_redis_accepts_no_writes() {
    let server = RedisServer::start();
    let (one, mut other) = (RegistryReplica::redis(&server).await, RegistryReplica::redis(&server).await);
    let (alice, session) = (UserId::new("alice").unwrap(), SessionId::random());
    other.connect("alice", session, 5).await;
    let _: String = server.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let carried = one.registry.revoke(&alice, Duration::from_secs(60)).await;
    assert!(carried.told.is_ok() && carried.stored.is_err(), "{carried:?}");
    other.told_to_close(session, 4002).await;
    let carried = one
        .registry
        .control(ControlInstruction::CloseUser { user: "bob".into(), code: 4500, reason: "x".into() })
        .await;
    assert!(carried.told.is_ok() && carried.stored.is_err(), "{carried:?}");
    assert!(matches!(other.told().await, ControlInstruction::CloseUser { user, .. } if user == "bob"));
    let _: String = server.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    eventually("it to be stored", async || server.run::<Option<u64>>(&["GET", "tg2:{u:alice}:r"]).await).await;
    // A replica that starts later knows it.
    let late = RegistryReplica::redis(&server).await;
    eventually("the word", async || late.registry.is_revoked(&alice, None).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_report_of_a_user_counts_whatever_a_replica_or_redis_missed() {
    let mut server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let one = RegistryReplica::redis(&server).await;
    let mut other = RegistryReplica::redis_over(&server, &proxy.url(), session_times()).await;
    let (alice, session, long) = (UserId::new("alice").unwrap(), SessionId::random(), Duration::from_secs(600));
    other.connect("alice", session, 5).await;
    one.registry.report(&alice, true, long).await.done().unwrap();
    other.told_to_close(session, 4002).await;
    // Redis loses what both have received.
    let _: String = server.run(&["FLUSHALL"]).await;
    for seat in [&one, &other] {
        assert_eq!(
            seat.connect("alice", SessionId::random(), 5).await,
            AdmissionVerdict::Revoked(RevokedToken::Surely)
        );
    }
    server.restart_empty();
    let kept = async |state: &'static str| {
        eventually(state, async || {
            let kept: Option<String> = server.run(&["GET", "tg2:{u:alice}:i"]).await;
            kept.is_some_and(|kept| kept.ends_with(state)).then_some(())
        })
        .await;
    };
    kept(":inactive").await;
    // Either may have written it.
    eventually("the first to be back", async || one.registry.recall(session).await.ok()).await;
    // A replica that is disconnected misses the next report, and what is stored of it.
    proxy.set(Weather::Refuse);
    one.registry.report(&alice, false, long).await.done().unwrap();
    let _: i64 = server.run(&["DEL", "tg2:controls"]).await;
    assert!(other.registry.is_inactive(&alice).await.unwrap());
    proxy.set(Weather::Pass { delay: Duration::ZERO });
    eventually("the report that was missed", async || {
        let verdict = other.connect("alice", SessionId::random(), 50).await;
        matches!(verdict, AdmissionVerdict::Admitted { .. }).then_some(())
    })
    .await;
    kept(":active").await;
    // While Redis is full, only a subscribed link carries a report: this instruction shows that the other's is back.
    let bob = SessionId::random();
    other.connect("bob", bob, 5).await;
    let close = ControlInstruction::CloseUser { user: "bob".into(), code: 4500, reason: "now".into() };
    one.registry.control(close).await.done().unwrap();
    let is_bobs = |heard| match heard {
        ControlInstruction::Close { session, .. } => session == bob.to_string(),
        ControlInstruction::CloseUser { user, .. } => user == "bob",
    };
    while !is_bobs(other.told().await) {}
    // Redis is full: sent, stored by the replicas, and later in Redis.
    let _: String = server.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let carried = one.registry.report(&alice, true, long).await;
    assert!(carried.told.is_ok() && carried.stored.is_err(), "{carried:?}");
    eventually("the word", async || other.registry.is_inactive(&alice).await.unwrap().then_some(())).await;
    let _: String = server.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    kept(":inactive").await;
    let late = RegistryReplica::redis(&server).await;
    assert_eq!(late.connect("alice", SessionId::random(), 5).await, AdmissionVerdict::Revoked(RevokedToken::Surely));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_from_before_redis_lost_its_time_do_not_close_later_connections() {
    let server = RedisServer::start();
    // Sent while Redis's clock was far ahead.
    let word = r#"{"op":"close_user","user":"alice","code":4500,"reason":"long ago"}"#;
    let entry = ["XADD", "tg2:controls", "9999999999999-0", "c", word, "s", "5"];
    let _: String = server.run(&entry).await;
    let proxy = Proxy::start(server.port()).await;
    let one = RegistryReplica::redis(&server).await;
    let mut two = RegistryReplica::redis_over(&server, &proxy.url(), session_times()).await;
    let [alice, bob] = std::array::from_fn(|_| SessionId::random());
    two.connect("alice", alice, 5).await;
    two.connect("bob", bob, 5).await;
    proxy.set(Weather::Refuse);
    let user = ControlInstruction::CloseUser { user: "bob".into(), code: 4500, reason: "now".into() };
    one.registry.control(user).await.done().expect("told");
    proxy.set(Weather::Pass { delay: Duration::ZERO });
    two.told_to_close(bob, 4500).await;
    let present = async || {
        let all = one.registry.connections(9).await.ok()?;
        all.iter().any(|info| info.session == alice.to_string()).then_some(())
    };
    eventually("all are told to redis again", present).await;
    // On a busy machine, a replica that must attach again receives messages for those that are still there, and no
    // others.
    while let Ok(control) = two.controls.try_recv() {
        assert!(
            matches!(&control, ControlInstruction::Close { session, .. } if *session == bob.to_string()),
            "told {control:?}"
        );
    }
}
