//! The links to Redis: one for commands and one for pub/sub, both supervised, and a pool.
//!
//! - No link ever gives up, blocks startup, or ends the process: without Redis the links are down, and report it.
//! - **A link is never trusted.** Each is probed every second, the pub/sub link also by a canary that makes the whole
//!   round trip. Any unexpected event (a timeout, an end, a demoted server, an unexpected unsubscribe, a missing
//!   canary) closes the link, and a new one replaces it; everything that relies on it is notified and compares.
//! - Every new link reads the server's *identity*: which server with which dataset it is. The backplane decides what
//!   another identity means (a generation).
//! - A [`RedisLink`] leads to one server, a [`Topology`] to all of them, each with its share of the names.
//! - The hot path shares one multiplexed command link. Reads with large responses, blocking and maintenance commands
//!   use the pool, whose size is their admission limit. Commands never share a link with subscriptions.
//!
//! Knows nothing about the contents of topics, sessions or leases.

mod backoff;
mod check;
mod command;
mod connect;
mod failure;
mod figures;
mod keys;
mod pool;
mod primary;
mod probe;
mod pubsub;
mod refusal;
mod refusal_log;
mod sentinels;
mod server;
mod subscriptions;
mod topology;
mod transport;
mod verdict;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

pub use crate::metrics::RedisCommand;
pub use check::check;
pub use failure::RedisFailure;
pub use figures::watch_server;
pub use keys::Keys;
pub use pool::PooledConnection;
pub use probe::probe;
pub use refusal::RefusalKind;
pub use subscriptions::{ChannelEvent, ControlCallback, EventReceiver};
pub use topology::{Placement, Topology};
#[cfg(feature = "simulation")]
pub use transport::{ConnectCall, Network, with_network};

use crate::{
    config,
    metrics::{LinkLabel, Metrics},
    tasks::Tasks,
};
use primary::Primary;
use subscriptions::ChannelSubscriptions;

/// The links of one replica to one server. Cheap to clone.
#[derive(Clone)]
pub struct RedisLink {
    shared: Arc<LinkShared>,
}

impl std::fmt::Debug for RedisLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisLink").field("health", &self.health()).finish_non_exhaustive()
    }
}

/// The state of the links.
#[derive(Clone, Copy, Debug)]
pub struct LinkHealth {
    /// Both links have been established at least once.
    pub reached: bool,
    /// How long commands have had no link; zero while they have one.
    pub commands_down: Duration,
    /// How long pub/sub has had no verified link; zero while it has one.
    pub pubsub_down: Duration,
}

struct LinkShared {
    config: config::Redis,
    keys: Keys,
    metrics: Arc<Metrics>,
    primary: Arc<Primary>,
    pool: pool::ReadPool,
    command: ArcSwapOption<AttachedServer>,
    /// Why there is no command link, if it does not pass by itself.
    obstacle: Mutex<Option<Arc<str>>>,
    /// Since when the command link has been in its current state, up or down.
    command_since: Mutex<Instant>,
    pubsub_down_since: Mutex<Option<Instant>>,
    /// Requests a probe of the command link.
    suspicion: Notify,
    /// A link is waiting for its first canary.
    canary_due: Notify,
    generation: Mutex<u64>,
    /// Counts changes of the server, or of its dataset.
    changes: watch::Sender<u64>,
    /// The server of the command link; `None` while it is down.
    identities: watch::Sender<Option<Arc<str>>>,
    /// The server of the pub/sub link; `None` while it is down.
    pubsub_identity: Mutex<Option<Arc<str>>>,
    /// Counts established pub/sub links.
    pubsub_links: watch::Sender<u64>,
    subscriptions: ChannelSubscriptions,
    refusals: refusal_log::RefusalLog,
    /// The server's memory is almost full.
    tight: watch::Sender<bool>,
    /// Loaded into every server to which a command link is established.
    scripts: Mutex<Vec<&'static str>>,
}

/// A connection, and the identity of its server.
#[derive(Clone)]
pub struct AttachedServer {
    /// A connection for commands; cheap to clone.
    pub connection: MultiplexedConnection,
    /// Changes whenever the server restarts or another one takes its place.
    pub identity: Arc<str>,
}

impl RedisLink {
    /// Starts both links in the background. Never waits and never fails: a replica starts without Redis.
    #[must_use]
    pub fn start(config: &config::Redis, tasks: &Tasks, metrics: Arc<Metrics>) -> Self {
        let now = Instant::now();
        for link in LinkLabel::ALL {
            metrics.redis_up.of(*link).set(0);
        }
        let keys = Keys::new(&config.prefix);
        let canary = keys.canary(&uuid::Uuid::new_v4().simple().to_string()[..12]);
        let primary = Arc::new(Primary::new(config));
        let shared = Arc::new(LinkShared {
            config: config.clone(),
            subscriptions: ChannelSubscriptions::new(canary),
            keys,
            pool: pool::ReadPool::new(config, Arc::clone(&primary), Arc::clone(&metrics)),
            primary,
            metrics,
            command: ArcSwapOption::empty(),
            obstacle: Mutex::new(None),
            command_since: Mutex::new(now),
            pubsub_down_since: Mutex::new(Some(now)),
            suspicion: Notify::new(),
            canary_due: Notify::new(),
            generation: Mutex::new(0),
            changes: watch::Sender::new(0),
            identities: watch::Sender::new(None),
            pubsub_identity: Mutex::new(None),
            pubsub_links: watch::Sender::new(0),
            refusals: refusal_log::RefusalLog::default(),
            tight: watch::Sender::new(false),
            scripts: Mutex::new(Vec::new()),
        });
        tasks.spawn_vital("redis command link", command::supervise(Arc::clone(&shared), tasks.stop()));
        tasks.spawn_vital("redis pub/sub link", pubsub::supervise(Arc::clone(&shared), tasks.stop()));
        tasks.spawn_vital("redis canary", pubsub::publish_canaries(Arc::clone(&shared), tasks.stop()));
        if config.access().sentinels.is_some() {
            tasks.spawn_vital("redis sentinels", sentinels::follow(Arc::clone(&shared), tasks.stop()));
        }
        Self { shared }
    }

    /// The shared command link. Only for small, fast commands: a slow one delays all others.
    ///
    /// # Errors
    /// [`RedisFailure::Disconnected`] while the link is down; nothing was sent.
    pub fn command(&self) -> Result<MultiplexedConnection, RedisFailure> {
        self.attached().map(|attached| attached.connection)
    }

    /// The shared command link, with the identity of its server.
    ///
    /// # Errors
    /// [`RedisFailure::Disconnected`] while the link is down.
    pub fn attached(&self) -> Result<AttachedServer, RedisFailure> {
        self.shared.command.load().as_deref().cloned().ok_or(RedisFailure::Disconnected)
    }

    /// A connection of the bounded pool, for reads with large responses and for maintenance commands.
    ///
    /// # Errors
    /// [`RedisFailure::PoolWait`] if all were busy for the configured wait, or why no connection could be established.
    pub async fn pooled(&self) -> Result<PooledConnection, RedisFailure> {
        self.shared.pool.get().await
    }

    /// A separate connection, outside the pool and unsupervised, for blocking commands.
    ///
    /// # Errors
    /// Why it could not be established.
    pub async fn dedicated(&self, response_timeout: Duration) -> Result<AttachedServer, RedisFailure> {
        let shared = &self.shared;
        let place = shared.primary.place()?;
        let attempt = connect::establish(&shared.config, &place, "tickgate-dedicated", |_| {});
        let bound = shared.config.connect_timeout + shared.config.response_timeout * 4;
        let connect::Established { mut connection, identity, .. } =
            tokio::time::timeout(bound, attempt).await.map_err(|_| RedisFailure::TimedOut)??;
        connection.set_response_timeout(response_timeout);
        Ok(AttachedServer { connection, identity })
    }

    /// Counts a failure, logs its kind at most once a minute, and requests a probe of the command link if the failure
    /// suggests one.
    pub fn report(&self, failure: &RedisFailure) {
        self.shared.metrics.redis_errors_total.of(failure.label()).inc();
        self.shared.refusals.write(failure);
        if failure.refusal() == Some(RefusalKind::Oom) {
            self.set_tight(true);
        }
        if failure.accuses_link() {
            self.shared.suspicion.notify_one();
        }
    }

    /// Whether the server's memory is almost full: optional data must not be written.
    #[must_use]
    pub fn is_tight(&self) -> bool {
        *self.shared.tight.borrow()
    }

    /// Watches [`RedisLink::is_tight`].
    #[must_use]
    pub fn tightness(&self) -> watch::Receiver<bool> {
        self.shared.tight.subscribe()
    }

    fn set_tight(&self, tight: bool) {
        self.shared.tight.send_if_modified(|before| std::mem::replace(before, tight) != tight);
    }

    /// Counts a message that none of our publishers wrote.
    pub(crate) fn report_malformed(&self) {
        self.shared.metrics.redis_errors_total.of(crate::metrics::RedisError::Other).inc();
    }

    /// Names of keys and channels.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.shared.keys
    }

    /// The settings with which the links were started.
    #[must_use]
    pub fn config(&self) -> &config::Redis {
        &self.shared.config
    }

    /// The metrics of the links.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Measures a command or a pipeline from now until the returned value is dropped.
    #[must_use]
    pub fn time(&self, kind: RedisCommand) -> impl Sized + use<> {
        self.shared.metrics.redis_command_duration_seconds.of(kind).start_timer()
    }

    /// Loads the script on every server to which a command link is established, so that EVALSHA finds it. A server can
    /// still forget it (SCRIPT FLUSH): [`RedisFailure::NoScript`].
    pub fn preload(&self, script: &'static str) {
        self.shared.scripts.lock().push(script);
    }

    /// Watches the identity of the command link's server.
    #[must_use]
    pub fn identities(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.shared.identities.subscribe()
    }

    /// False if the two links lead to different servers.
    #[must_use]
    pub fn is_one_server(&self) -> bool {
        self.shared.is_one_server()
    }

    /// Requests a probe of the command link.
    pub fn suspect(&self) {
        self.shared.suspicion.notify_one();
    }

    /// The backplane found that the dataset has a new generation: earlier writes may be lost.
    pub fn learn(&self, generation: u64) {
        self.shared.learn(generation);
    }

    /// Counts changes of the server or of its dataset: earlier writes may be lost at each.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Watches the count of established pub/sub links: each change means that control messages may have been missed.
    #[must_use]
    pub fn pubsub_links(&self) -> watch::Receiver<u64> {
        self.shared.pubsub_links.subscribe()
    }

    /// Sets the receiver of followed channels' events. Called once; a second call has no effect.
    pub fn receive(&self, receiver: EventReceiver) {
        self.shared.subscriptions.set_receiver(receiver);
    }

    /// Subscribes to a channel and passes its messages to the receiver, with [`ChannelEvent::Confirmed`] when the subscription
    /// is active. Calls are not counted. Survives the loss of the link.
    ///
    /// `owner`: on whose behalf. If many wait, channels of different owners take turns.
    pub fn follow(&self, channel: &str, owner: Option<u64>) {
        self.shared.subscriptions.follow(channel, owner);
    }

    /// Ends [`RedisLink::follow`].
    pub fn unfollow(&self, channel: &str) {
        self.shared.subscriptions.unfollow(channel);
    }

    /// Subscribes to a channel permanently and passes each message's bytes to the callback, in the link's own task: it
    /// must not block. Messages sent while the link is down are missed; see [`RedisLink::pubsub_links`].
    pub fn subscribe_control(&self, channel: &str, callback: ControlCallback) {
        self.shared.subscriptions.subscribe_control(channel, callback);
    }

    /// Why no command link can be established, if it does not pass by itself: for operators.
    #[must_use]
    pub fn obstacle(&self) -> Option<Arc<str>> {
        self.shared.obstacle.lock().clone()
    }

    /// The state of the links.
    #[must_use]
    pub fn health(&self) -> LinkHealth {
        let down = |since: Option<Instant>| since.map_or(Duration::ZERO, |since| since.elapsed());
        let up = self.shared.command.load().is_some();
        LinkHealth {
            reached: *self.shared.pubsub_links.borrow() > 0,
            commands_down: down((!up).then(|| *self.shared.command_since.lock())),
            pubsub_down: down(*self.shared.pubsub_down_since.lock()),
        }
    }
}

impl LinkShared {
    fn is_one_server(&self) -> bool {
        let command = self.identities.borrow();
        let pubsub = self.pubsub_identity.lock();
        match (&*command, &*pubsub) {
            (Some(command), Some(pubsub)) => command == pubsub,
            _ => true,
        }
    }

    fn learn(&self, generation: u64) {
        let before = std::mem::replace(&mut *self.generation.lock(), generation);
        if before != generation && before != 0 {
            self.pool.renew();
            self.changes.send_modify(|changes| *changes += 1);
            self.subscriptions.emit(ChannelEvent::GenerationChanged);
        }
    }
}
