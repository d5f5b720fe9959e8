//! The composition root: builds all parts of a replica from its configuration, runs it, and drains it. Contains no
//! domain rules.

use std::{
    fs::File,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use tickgate_wire::model::ReplicaId;

use crate::{
    api::{Api, ApiState, Lifecycle, LifecyclePhase},
    auth::Verifier,
    backplane::{self, Backplane},
    clock::{self, Uptime},
    config::{Config, ConfigSources, Effective, KnownChannels, Problems},
    connection::{
        accept::{self, PlainLimit, Serving},
        address::AddressLimits,
        drain, inquiry,
        keep_alive::KeepAliveConfig,
        loopback,
        replica::{Replica, UserBuckets},
        routes,
        table::ConnectionTable,
        wheel::TimerWheel,
    },
    descriptors::{Descriptors, OPERATIONS_SPARES, PUBLIC_SPARES},
    feeds,
    hub::Hub,
    metrics::{self, Metrics},
    publisher::{PublishLimits, Publisher},
    redis_link::{self, RedisLink, Topology},
    registry::{self, LocalReplica, Registry, ReplicaFigures},
    session::SessionRules,
    tasks::Tasks,
    tls::{self, Acceptor},
};

mod connect;
mod error;
mod figures;
mod hub_settings;
mod listeners;
mod market;
mod operator;
mod reload;

pub use crate::{api::Addresses, connection::drain::DrainPace};
pub use connect::connect;
pub use error::{BuildError, VitalTaskFailed};
use hub_settings::hub_settings;
use listeners::{ADDRESSES_EXTRA, Acceptors, Listeners, plain_limits};
use operator::{Controls, ProcessContext};
pub use reload::Reload;

/// How long background tasks may take to end after all connections are closed.
const TASKS_GRACE: Duration = Duration::from_secs(3);
/// How long requests of publishers and operators may take to complete after all connections are closed.
const PUBLISHERS_GRACE: Duration = Duration::from_secs(3);

/// Added to `session.write_timeout` to get the kernel's timeout, so that a WebSocket or an event stream is closed with
/// its reason first.
const WRITE_GRACE: Duration = Duration::from_secs(5);

/// One replica, built and listening, not yet serving.
#[derive(Debug)]
pub struct App {
    replica: Arc<Replica>,
    api: Api,
    lifecycle: Lifecycle,
    descriptors: Descriptors,
    public: Listeners,
    operations: Listeners,
    acceptors: Acceptors,
    outside: Arc<ProcessContext>,
    reload: Option<Reload>,
    recording: Option<File>,
}

/// Loads the configuration of a replica and checks that a replica can start with it: keys, certificates and addresses
/// are read as the replica will read them.
///
/// # Errors
/// All problems.
pub fn load(sources: &ConfigSources) -> Result<(Config, Effective), Problems> {
    Config::load_with(sources, |config, problems| {
        if let Err(found) = Verifier::new(&config.auth) {
            problems.extend(found);
        }
        if let Some(redis) = &config.redis {
            redis_link::check(redis, problems);
        }
        tls::check(config, problems);
    })
}

impl App {
    /// Builds all parts and binds both listeners. Redis need not be reachable yet.
    ///
    /// # Errors
    /// [`BuildError`] if a key is unusable or an address cannot be bound.
    pub async fn build(mut config: Config) -> Result<Self, BuildError> {
        let descriptors = Descriptors::of_process(config.redis.as_ref().map_or(0, |redis| redis.pool_size));
        bound_connections(&mut config, descriptors);
        let config = Arc::new(config);
        let metrics = Metrics::new();
        metrics::count_panics(&metrics);
        metrics.replica_info.name(&config.server.name);
        let verifier = Arc::new(Verifier::new(&config.auth).map_err(BuildError::Keys)?);
        let acceptors = Acceptors::new(&config.server).map_err(BuildError::Keys)?;
        let public = Listeners::bind("server.listen", config.server.listen, config.development)?;
        let operations = Listeners::bind("server.ops_listen", config.server.ops_listen, config.development)?;
        let recording = market::open_recording(&config)?;
        let tasks = Tasks::new();
        tasks.time_polls(metrics.task_poll_duration_seconds.clone());
        verifier.start(&tasks, &metrics).await;
        tasks.spawn("event loop watch", metrics::watch_event_loop(metrics.clone(), tasks.stop()));
        let lifecycle = Lifecycle::new(&metrics);
        let addresses = Addresses { public: public.address, operations: operations.address };
        let replica = build_replica(config, verifier, &lifecycle, metrics, tasks);
        let outside = Arc::new(ProcessContext::default());
        let api = Api::new(ApiState {
            config: replica.config.clone(),
            replica: replica.id.clone(),
            backplane: replica.backplane.clone(),
            registry: replica.registry.clone(),
            publisher: replica.publisher.clone(),
            verifier: replica.verifier.clone(),
            metrics: replica.metrics.clone(),
            figures: Arc::new(figures::OwnFigures(replica.clone())),
            lifecycle: lifecycle.clone(),
            audit: replica.audit.clone(),
            operator: Arc::new(Controls {
                replica: replica.clone(),
                lifecycle: lifecycle.clone(),
                outside: outside.clone(),
            }),
            addresses,
        });
        replica.metrics.reloaded_timestamp_seconds.set(clock::unix_s() as i64);
        tls::export_expiry(&replica.config, &replica.metrics, clock::unix_s());
        Ok(Self {
            replica,
            api,
            lifecycle,
            descriptors,
            public,
            operations,
            recording,
            acceptors,
            outside,
            reload: None,
        })
    }

    /// Reloads settings and secrets at runtime.
    #[must_use]
    pub fn reloading(self, reload: Reload) -> Self {
        reload.show(&self.outside);
        Self { reload: Some(reload), ..self }
    }

    /// The bound addresses: port 0 has become a free port.
    #[must_use]
    pub const fn addresses(&self) -> Addresses {
        Addresses { public: self.public.address, operations: self.operations.address }
    }

    /// The metrics of this replica.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.replica.metrics
    }

    /// Serves until `shutdown`, then drains at its pace.
    ///
    /// # Errors
    /// [`VitalTaskFailed`] if a vital task panicked; the replica drains in this case too.
    pub async fn run(self, shutdown: impl Future<Output = DrainPace>) -> Result<(), VitalTaskFailed> {
        let Self { replica, api, lifecycle, descriptors, public, operations, recording, acceptors, outside, reload } =
            self;
        let (listen, ops_listen) = (public.address, operations.address);
        let tasks = replica.tasks.clone();
        let doors = tasks.apart();
        let server = &replica.config.server;
        let tls = |acceptor: &Option<Acceptor>| {
            acceptor.clone().map(|acceptor| accept::ListenerTls { acceptor, metrics: replica.metrics.clone() })
        };
        let serving = |spares, acceptor| Serving {
            head_timeout: server.header_timeout,
            idle_timeout: server.idle_timeout,
            head_bytes_max: server.header_bytes_max,
            descriptors,
            spares,
            write_timeout: replica.config.session.write_timeout + WRITE_GRACE,
            plain: None,
            tls: tls(acceptor),
        };
        let plain = PlainLimit { addresses: plain_limits(&replica.config), proxies: server.proxies.clone() };
        let local = |router| {
            let development = replica.config.development;
            if development { loopback::only(router, &server.allowed_origins) } else { router }
        };
        let sockets = local(routes::router(&replica, api.public()));
        let public_serving = || Serving { plain: Some(plain.clone()), ..serving(PUBLIC_SPARES, &acceptors.public) };
        for listener in public.all() {
            let serve = accept::serve(listener, sockets.clone(), public_serving(), tasks.clone(), doors.stop());
            doors.spawn_vital("public listener", serve);
        }
        // Open until the drain is over: metrics and probes report it.
        let publishers = tasks.apart();
        for listener in operations.all() {
            let (router, serving) = (local(api.operations()), serving(OPERATIONS_SPARES, &acceptors.operations));
            let serve = accept::serve(listener, router, serving, publishers.clone(), publishers.stop());
            publishers.spawn_vital("operations listener", serve);
        }
        if let Some(reload) = reload {
            tasks.spawn_vital("reload", reload.run(replica.clone(), (acceptors, outside), tasks.stop()));
        }
        tasks.spawn("figures", figures::watch(replica.clone(), tasks.stop()));
        tasks.spawn_vital("wheel", replica.clone().keep_time(tasks.stop()));
        feeds::start(&replica.config.feeds, recording, &market::feed_sources(&replica), &tasks);
        lifecycle.started();
        tracing::info!(replica = %replica.id, %listen, %ops_listen, backplane = replica.backplane.health().kind, "serving");
        let outcome = tokio::select! {
            pace = shutdown => Ok(pace),
            task = tasks.broken() => Err(VitalTaskFailed { task }),
        };
        if let Err(broken) = &outcome {
            tracing::error!("{broken}: this replica drains and exits");
            lifecycle.fail(broken.task);
        }
        lifecycle.drain();
        drain::drain(&replica, &doors, *outcome.as_ref().unwrap_or(&DrainPace::Configured)).await;
        replica.hub.traces().end_all();
        // Before the link to Redis ends: publishers get a response, or cannot connect and use another replica.
        publishers.end(PUBLISHERS_GRACE).await;
        replica.backplane.leave().await;
        if let Err(error) = replica.registry.leave().await {
            tracing::debug!(%error, "leases expire by themselves");
        }
        let left = tasks.end(TASKS_GRACE).await;
        tracing::info!(tasks_left = left, "ended");
        outcome.map(|_| ())
    }
}

/// Limits clients to the available descriptors: the replica then refuses in time, and is not ready.
fn bound_connections(config: &mut Config, descriptors: Descriptors) {
    let (asked, max) = (config.limits.connections_max, descriptors.connections_max());
    if asked > max {
        tracing::warn!(
            connections_max = asked,
            kept = descriptors.kept(),
            descriptors = descriptors.max(),
            in_force = max,
            "limits.connections_max needs more file descriptors than this process may open: raise the hard limit (ulimit -Hn)"
        );
        config.limits.connections_max = max;
    }
}

fn build_replica(
    config: Arc<Config>,
    verifier: Arc<Verifier>,
    lifecycle: &Lifecycle,
    metrics: Arc<Metrics>,
    tasks: Tasks,
) -> Arc<Replica> {
    let id = ReplicaId::random();
    let connections = Arc::new(ConnectionTable::default());
    let link = config.redis.as_ref().map(|redis| RedisLink::start(redis, &tasks, metrics.clone()));
    if let Some(link) = &link {
        tasks.spawn("redis figures", redis_link::watch_server(link.clone(), tasks.stop()));
    }
    let topology = link.map(Topology::one);
    let backplane = match &topology {
        Some(topology) => {
            let identity = backplane::ReplicaIdentity { replica: id.clone(), rules: config.topics.clone() };
            Backplane::Redis(backplane::Redis::start_on(topology, &identity, &tasks))
        }
        None => Backplane::Memory(backplane::Memory::new()),
    };
    let hub = Hub::start(backplane.clone(), hub_settings(&config), metrics.clone(), &tasks);
    let uptime = Uptime::default();
    let local = local(&config, &id, (&connections, uptime), &hub, lifecycle);
    let registry = match &topology {
        Some(topology) => Registry::Redis(registry::Redis::start_on(topology, local, &tasks)),
        None => {
            metrics.replicas.set(1);
            Registry::Memory(registry::Memory::new(local))
        }
    };
    let limits = &config.limits;
    let publish_limits = PublishLimits {
        payload_bytes_max: limits.payload_bytes_max,
        json_depth_max: limits.json_depth_max,
        development: config.development,
    };
    let patterns = config.topics.by_name().map(|rule| rule.pattern.as_str());
    patterns.chain(["user_stream"]).for_each(|rule| metrics.subscriptions.of(rule).set(0));
    let known = KnownChannels::new(&config.profiles, &config.topics);
    let rules = SessionRules { topics: config.topics.clone(), limits: limits.clone(), development: config.development };
    let addresses = AddressLimits::new(
        limits.connections_per_address_max,
        limits.handshakes_per_address,
        limits.connections_max.saturating_add(ADDRESSES_EXTRA),
        Instant::now(),
    );
    Arc::new(Replica {
        publisher: Publisher::new(backplane.clone(), config.topics.clone(), publish_limits, metrics.clone())
            .with_known_channels(known, limits.refuses_unknown_channels),
        keep_alive: KeepAliveConfig::new(&config.session, &config.auth),
        rules: Arc::new(rules),
        addresses,
        id,
        hub,
        backplane,
        registry,
        verifier,
        metrics,
        tasks,
        connections,
        wheel: TimerWheel::default(),
        uptime,
        users: UserBuckets::default(),
        audit: Arc::default(),
        closing: AtomicBool::new(false),
        held: AtomicBool::new(false),
        config,
    })
}

/// What the registry requests from this replica.
fn local(
    config: &Config,
    replica: &ReplicaId,
    (connections, uptime): (&Arc<ConnectionTable>, Uptime),
    hub: &Arc<Hub>,
    lifecycle: &Lifecycle,
) -> LocalReplica {
    let (controlled, counted, asked) = (connections.clone(), connections.clone(), connections.clone());
    let (hub, lifecycle, own) = (hub.clone(), lifecycle.clone(), replica.clone());
    let (started_ms, name) = (clock::unix_ms(), config.server.name.clone());
    LocalReplica {
        replica: replica.clone(),
        session: config.session.clone(),
        control: Box::new(move |control| controlled.on_control(&control)),
        figures: Box::new(move || ReplicaFigures {
            name: name.clone(),
            connections: counted.len() as u64,
            subscriptions: hub.subscriptions() as u64,
            started_ms,
            draining: lifecycle.phase() == LifecyclePhase::Draining,
        }),
        answer: Box::new(move |asking, followers| {
            inquiry::answer(&asked, own.as_str(), uptime.now_ms(), asking, followers)
        }),
    }
}
