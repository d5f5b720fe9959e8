//! Whether this replica should receive new clients, decided from plain facts. Does no I/O, and never closes existing
//! connections.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use prometheus::IntGauge;
use tokio::sync::watch;

use crate::{backplane::Health, config, metrics::Metrics};

/// The phases of a replica's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LifecyclePhase {
    /// Listening, but not yet ready to serve clients.
    Starting,
    /// Accepts clients.
    Running,
    /// Shutting down: still serves, but accepts no new clients.
    Draining,
}

impl LifecyclePhase {
    /// The name in probes and status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
        }
    }
}

/// The phase, shared by all parts that depend on it. It only moves forward. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    phase: watch::Sender<LifecyclePhase>,
    /// The vital task that failed.
    failed: Arc<OnceLock<&'static str>>,
    /// Whether an operator drained the replica.
    held: watch::Sender<bool>,
    draining: IntGauge,
}

impl Lifecycle {
    /// Starts in `LifecyclePhase::Starting`.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            phase: watch::Sender::new(LifecyclePhase::Starting),
            failed: Arc::default(),
            held: watch::Sender::new(false),
            draining: metrics.draining.clone(),
        }
    }

    /// Records that a vital task failed. Cannot be undone.
    pub fn fail(&self, task: &'static str) {
        let _ = self.failed.set(task);
    }

    /// The vital task that failed, if any.
    #[must_use]
    pub fn failed(&self) -> Option<&'static str> {
        self.failed.get().copied()
    }

    /// Drains or undrains the replica for an operator. False if nothing changed.
    pub fn hold(&self, held: bool) -> bool {
        let changed = self.held.send_if_modified(|now| std::mem::replace(now, held) != held);
        if changed && self.phase() != LifecyclePhase::Draining {
            self.draining.set(held.into());
        }
        changed
    }

    /// Whether an operator drained the replica.
    #[must_use]
    pub fn is_held(&self) -> bool {
        *self.held.borrow()
    }

    /// Resolves when the replica is not held by an operator.
    pub async fn released(&self) {
        // The sender is `self`, so waiting cannot fail.
        let _ = self.held.subscribe().wait_for(|held| !held).await;
    }

    /// Marks the replica as started. No effect once the drain has begun.
    pub fn started(&self) {
        self.advance(LifecyclePhase::Running);
    }

    /// Starts the drain. Cannot be undone.
    pub fn drain(&self) {
        self.advance(LifecyclePhase::Draining);
        self.draining.set(1);
    }

    fn advance(&self, to: LifecyclePhase) {
        self.phase.send_if_modified(|phase| {
            let forward = *phase < to;
            *phase = (*phase).max(to);
            forward
        });
    }

    /// The current phase.
    #[must_use]
    pub fn phase(&self) -> LifecyclePhase {
        *self.phase.borrow()
    }

    /// Resolves when the drain has begun.
    pub async fn draining(&self) {
        // The sender is `self`, so waiting cannot fail.
        let _ = self.phase.subscribe().wait_for(|phase| *phase == LifecyclePhase::Draining).await;
    }
}

/// The state of the replica at one moment.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The phase of the replica's life.
    pub phase: LifecyclePhase,
    /// An operator drained the replica.
    pub held: bool,
    /// Open connections, and their limit.
    pub connections: usize,
    /// `limits.connections_max`.
    pub connections_max: usize,
    /// No token can be verified yet: the first key set has not arrived, and no other key is configured.
    pub awaits_keys: bool,
    /// The links to Redis; always healthy with the memory back end.
    pub backplane: Health,
    /// How long the oldest topic has waited to be compared with its stream, or to be read.
    pub queue_wait: Duration,
}

/// Why a replica does not accept new clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// Some part is not built yet.
    Starting,
    /// It is shutting down, and accepts no new clients.
    Draining,
    /// An operator drained the replica, which keeps running.
    Held,
    /// The first key set has not arrived.
    KeysMissing,
    /// The replica is at its connection limit.
    Overloaded,
    /// Redis commands have failed for longer than the grace period; and why, if it does not pass by itself.
    CommandsDown(Duration, Option<Arc<str>>),
    /// The pub/sub link has been silent for longer than the grace period.
    PubSubDown(Duration),
    /// Redis answers, but publications cannot be acknowledged: the reason.
    NotAcknowledging(Arc<str>),
    /// Topics have waited for longer than the grace period although commands work: new subscriptions may fail.
    QueueStalled(Duration),
}

impl NotReady {
    /// The stable name, for programs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Draining => "draining",
            Self::Held => "held",
            Self::KeysMissing => "keys_missing",
            Self::Overloaded => "overloaded",
            Self::CommandsDown(..) => "redis_down",
            Self::PubSubDown(_) => "redis_pubsub_down",
            Self::NotAcknowledging(_) => "redis_membership",
            Self::QueueStalled(_) => "work_queue_stalled",
        }
    }
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("the replica is starting"),
            Self::Draining => f.write_str("the replica is draining"),
            Self::Held => f.write_str("an operator drained the replica"),
            Self::KeysMissing => f.write_str("no key set has arrived yet, so no token can be verified"),
            Self::Overloaded => f.write_str("the replica is at its connection limit"),
            Self::CommandsDown(down, None) => write!(f, "redis has not answered for {} s", down.as_secs()),
            Self::CommandsDown(down, Some(why)) => {
                write!(f, "redis has not been usable for {} s: {why}", down.as_secs())
            }
            Self::PubSubDown(down) => write!(f, "redis pub/sub has been silent for {} s", down.as_secs()),
            Self::NotAcknowledging(why) => write!(f, "nothing can be acknowledged: {why}"),
            Self::QueueStalled(wait) => write!(f, "topics have waited to be read for {} s", wait.as_secs()),
        }
    }
}

/// One line of the verbose response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The check's name in the verbose response.
    pub name: &'static str,
    /// `None`: passed.
    pub failed: Option<NotReady>,
}

/// The decision and all checks that led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadinessReport {
    /// In order of priority: the first failed check gives the reason.
    pub checks: [Check; 7],
}

impl ReadinessReport {
    /// Decides from facts and configuration.
    #[must_use]
    pub fn decide(facts: &Facts, config: &config::Readiness) -> Self {
        let lifecycle = match facts.phase {
            LifecyclePhase::Starting => Some(NotReady::Starting),
            LifecyclePhase::Draining => Some(NotReady::Draining),
            LifecyclePhase::Running => facts.held.then_some(NotReady::Held),
        };
        let load = (facts.connections >= facts.connections_max).then_some(NotReady::Overloaded);
        // Replay covers a short outage; only a long one should move new clients elsewhere. Before the first connection
        // to Redis there is nothing to replay.
        let grace = if facts.backplane.reached { config.redis_grace } else { Duration::ZERO };
        let outlasted = |down: Duration| config.redis_required && down > grace;
        let why = facts.backplane.commands_obstacle.clone();
        let (commands, pubsub) = (facts.backplane.commands_down, facts.backplane.pubsub_down);
        // Without a command link nothing can be read: the check of Redis reports that.
        let stalled = commands.is_zero() && facts.queue_wait > config.queue_grace;
        let obstacle = facts.backplane.obstacle.clone().filter(|_| config.redis_required);
        Self {
            checks: [
                Check { name: "lifecycle", failed: lifecycle },
                Check { name: "keys", failed: facts.awaits_keys.then_some(NotReady::KeysMissing) },
                Check { name: "redis", failed: outlasted(commands).then_some(NotReady::CommandsDown(commands, why)) },
                Check { name: "redis_pubsub", failed: outlasted(pubsub).then_some(NotReady::PubSubDown(pubsub)) },
                Check { name: "redis_membership", failed: obstacle.map(NotReady::NotAcknowledging) },
                Check { name: "work_queue", failed: stalled.then_some(NotReady::QueueStalled(facts.queue_wait)) },
                Check { name: "connections", failed: load },
            ],
        }
    }

    /// Why the replica is not ready; `None` when it is.
    #[must_use]
    pub fn reason(&self) -> Option<NotReady> {
        self.checks.iter().find_map(|check| check.failed.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: config::Readiness = config::Readiness {
        redis_required: true,
        redis_grace: Duration::from_secs(10),
        queue_grace: Duration::from_secs(10),
    };

    fn running() -> Facts {
        let backplane = Health {
            kind: "redis",
            reached: true,
            commands_down: Duration::ZERO,
            commands_obstacle: None,
            pubsub_down: Duration::ZERO,
            obstacle: None,
            acknowledges: true,
        };
        let (connections, connections_max, queue_wait) = (3, 10, Duration::ZERO);
        Facts {
            phase: LifecyclePhase::Running,
            held: false,
            connections,
            connections_max,
            awaits_keys: false,
            backplane,
            queue_wait,
        }
    }

    fn reason(facts: &Facts) -> Option<NotReady> {
        ReadinessReport::decide(facts, &CONFIG).reason()
    }

    #[test]
    fn a_replica_that_never_reached_redis_is_not_ready_from_the_start() {
        let never = Duration::from_millis(1);
        let health = Health {
            kind: "redis",
            reached: false,
            commands_down: never,
            commands_obstacle: Some("wrong server".into()),
            pubsub_down: never,
            obstacle: None,
            acknowledges: false,
        };
        let facts = Facts { backplane: health, ..running() };
        assert_eq!(reason(&facts), Some(NotReady::CommandsDown(never, Some("wrong server".into()))));
    }

    #[test]
    fn a_running_replica_with_room_and_links_is_ready() {
        assert_eq!(reason(&running()), None);
    }

    #[test]
    fn starting_and_draining_replicas_are_not_ready_in_any_case() {
        assert_eq!(reason(&Facts { phase: LifecyclePhase::Starting, ..running() }), Some(NotReady::Starting));
        let full = Facts { phase: LifecyclePhase::Draining, connections: 10, ..running() };
        assert_eq!(reason(&full), Some(NotReady::Draining));
    }

    #[test]
    fn an_operator_can_drain_and_undrain_a_replica() {
        assert_eq!(reason(&Facts { held: true, ..running() }), Some(NotReady::Held));
        let metrics = Metrics::new();
        let lifecycle = Lifecycle::new(&metrics);
        lifecycle.started();
        assert!(lifecycle.hold(true) && !lifecycle.hold(true) && lifecycle.is_held() && metrics.draining.get() == 1);
        assert!(lifecycle.hold(false) && metrics.draining.get() == 0);
        lifecycle.hold(true);
        lifecycle.drain();
        lifecycle.hold(false);
        assert_eq!(metrics.draining.get(), 1, "the shutdown continues");
    }

    #[test]
    fn a_full_replica_is_not_ready_until_a_connection_closes() {
        assert_eq!(reason(&Facts { connections: 10, ..running() }), Some(NotReady::Overloaded));
        assert_eq!(reason(&Facts { connections: 9, ..running() }), None);
    }

    #[test]
    fn redis_may_be_unreachable_for_the_grace_period_only() {
        let with = |commands: u64, pubsub: u64| {
            let (commands_down, pubsub_down) = (Duration::from_secs(commands), Duration::from_secs(pubsub));
            Facts { backplane: Health { commands_down, pubsub_down, ..running().backplane }, ..running() }
        };
        assert_eq!(reason(&with(10, 10)), None);
        assert_eq!(reason(&with(11, 0)), Some(NotReady::CommandsDown(Duration::from_secs(11), None)));
        assert_eq!(reason(&with(0, 11)), Some(NotReady::PubSubDown(Duration::from_secs(11))));
        let optional = config::Readiness { redis_required: false, ..CONFIG };
        assert_eq!(ReadinessReport::decide(&with(99, 99), &optional).reason(), None);
    }

    #[test]
    fn topics_may_wait_longer_than_the_grace_period_only_during_an_outage() {
        let waited = |seconds: u64| Facts { queue_wait: Duration::from_secs(seconds), ..running() };
        assert_eq!(reason(&waited(10)), None);
        assert_eq!(reason(&waited(11)), Some(NotReady::QueueStalled(Duration::from_secs(11))));
        let optional = config::Readiness { redis_required: false, ..CONFIG };
        let mut down = waited(99);
        assert!(ReadinessReport::decide(&down, &optional).reason().is_some());
        down.backplane.commands_down = Duration::from_millis(1);
        assert_eq!(ReadinessReport::decide(&down, &optional).reason(), None);
    }

    #[test]
    fn the_drain_is_final() {
        let metrics = Metrics::new();
        let lifecycle = Lifecycle::new(&metrics);
        assert_eq!(lifecycle.phase(), LifecyclePhase::Starting);
        lifecycle.started();
        assert_eq!(lifecycle.phase(), LifecyclePhase::Running);
        assert_eq!(metrics.draining.get(), 0);
        lifecycle.drain();
        lifecycle.started();
        assert_eq!(lifecycle.phase(), LifecyclePhase::Draining);
        assert_eq!(metrics.draining.get(), 1);
    }
}
