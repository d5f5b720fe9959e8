//! Every fault of the suite, with its action and its duration. Never more than one at a time on the same Redis or
//! process; different faults may overlap.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    dice::Dice,
    follower::ClientOrder,
    redis_line::{loaded, rewritten, say},
    stage::{self, ChaosStage},
    standby::Standby,
    support::{
        proxy::{Proxy, Weather},
        redis::RedisServer,
    },
};

macro_rules! faults {
    ($($name:ident $text:literal $target:ident $effect:ident;)+) => {
        /// A fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum InjectedFault { $($name,)+ }

        impl InjectedFault {
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its name in the documentation.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            pub const fn target(self) -> FaultTarget {
                match self { $(Self::$name => FaultTarget::$target,)+ }
            }

            pub const fn effect(self) -> PermittedEffect {
                match self { $(Self::$name => PermittedEffect::$effect,)+ }
            }

            /// Whether it is a change of server without losses.
            pub const fn changes_server(self) -> bool {
                matches!(self, Self::RedisKilled | Self::RedisLoading | Self::FailoverPlanned)
            }

            /// Whether a change of server soon after it may be doubtful: a replica has ended, or the roster was lost
            /// with the dataset.
            pub const fn leaves_doubt(self) -> bool {
                matches!(self, Self::ReplicaKilled) || matches!(self.effect(), PermittedEffect::Forgets)
            }
        }
    };
}

/// The target of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultTarget {
    Redis,
    Link,
    Replica,
    Client,
}

/// The permitted effect of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermittedEffect {
    /// Everything acknowledged is delivered, and no gap is reported.
    Nothing,
    /// Redis loses what it had acknowledged: gaps must be reported.
    Forgets,
}

faults! {
    RedisKilled "Redis killed, AOF kept" Redis Nothing;
    RedisFrozen "Redis frozen (SIGSTOP)" Redis Nothing;
    RedisAsleep "Redis busy (`DEBUG SLEEP`)" Redis Nothing;
    RedisLoading "Redis restarted, loading for a second" Redis Nothing;
    WritesPaused "`CLIENT PAUSE … WRITE`" Redis Nothing;
    AllPaused "`CLIENT PAUSE … ALL`" Redis Nothing;
    PubSubKilled "`CLIENT KILL TYPE pubsub`" Redis Nothing;
    CommandsKilled "`CLIENT KILL TYPE normal`" Redis Nothing;
    OutOfMemory "Redis out of memory" Redis Nothing;
    FailoverPlanned "planned failover (READONLY)" Redis Nothing;
    ScriptsFlushed "`SCRIPT FLUSH`" Redis Nothing;
    RolledBack "Redis killed, back with an older RDB" Redis Forgets;
    Emptied "Redis killed, back empty" Redis Forgets;
    Flushed "`FLUSHALL`" Redis Forgets;
    FailoverLosing "failover to a replica that lagged" Redis Forgets;
    LinkCut "connections to Redis cut" Link Nothing;
    LinkHalfOpen "connections to Redis half-open" Link Nothing;
    LinkDeaf "nothing arrives from Redis" Link Nothing;
    LinkMute "nothing arrives at Redis" Link Nothing;
    LinkDelayed "Redis 150 ms away" Link Nothing;
    LinkThrottled "100 KB/s to Redis" Link Nothing;
    ReplicaKilled "replica killed (SIGKILL)" Replica Nothing;
    ReplicaDrained "replica drained (SIGTERM) and replaced" Replica Nothing;
    ReplicaFrozen "replica frozen (SIGSTOP) for 1.5 s" Replica Nothing;
    ClientCut "client connections cut" Client Nothing;
    ClientHalfOpen "client connections half-open" Client Nothing;
    ClientDeaf "nothing arrives at the clients" Client Nothing;
    ClientMute "nothing arrives from the clients" Client Nothing;
    ClientDelayed "clients 150 ms away" Client Nothing;
    ClientThrottled "100 KB/s to the clients" Client Nothing;
    ClientKilled "client killed, back elsewhere" Client Nothing;
    ClientLeaves "client leaves, back elsewhere" Client Nothing;
    ClientAway "client away for a second" Client Nothing;
    ClientSleeps "client reads nothing for a second" Client Nothing;
}

/// The start and end of a fault.
#[derive(Clone, Copy, Debug)]
pub struct Injected {
    pub began: Instant,
    pub over: Instant,
}

/// Injects the fault and waits until it is over.
pub async fn inject(stage: &Arc<ChaosStage>, fault: InjectedFault, dice: &mut Dice) -> Injected {
    match fault.target() {
        FaultTarget::Redis => inject_into_redis(stage, fault, dice).await,
        FaultTarget::Link => {
            let place = &stage.places[dice.index(stage::REPLICAS)];
            let began = Instant::now();
            blow(&place.to_redis, fault, dice).await;
            Injected { began, over: Instant::now() }
        }
        FaultTarget::Replica => inject_into_replica(stage, fault, dice).await,
        FaultTarget::Client => {
            let began = Instant::now();
            match fault {
                InjectedFault::ClientKilled
                | InjectedFault::ClientLeaves
                | InjectedFault::ClientAway
                | InjectedFault::ClientSleeps => {
                    order_a_client(stage, fault, dice).await;
                }
                _ => blow(&stage.places[dice.index(stage::REPLICAS)].to_clients, fault, dice).await,
            }
            Injected { began, over: Instant::now() }
        }
    }
}

/// Changes the weather of a proxy for a while.
async fn blow(proxy: &Proxy, fault: InjectedFault, dice: &mut Dice) {
    let pause = Duration::from_millis(dice.between(300, 900));
    match fault {
        InjectedFault::LinkCut | InjectedFault::ClientCut => {
            proxy.set(Weather::Refuse);
            sleep(pause).await;
            proxy.set(Weather::CLEAR);
        }
        // Never heals: only new connections work.
        InjectedFault::LinkHalfOpen | InjectedFault::ClientHalfOpen => proxy.change_old(Weather::BlackHole),
        InjectedFault::LinkDeaf | InjectedFault::ClientDeaf => proxy.change_old(Weather::Deaf),
        InjectedFault::LinkMute | InjectedFault::ClientMute => proxy.change_old(Weather::Mute),
        InjectedFault::LinkDelayed | InjectedFault::ClientDelayed => {
            proxy.set(Weather::Pass { delay: Duration::from_millis(150) });
            sleep(pause * 2).await;
            proxy.set(Weather::CLEAR);
        }
        _ => {
            proxy.set(Weather::Throttle { bytes_per_second: 100_000 });
            sleep(pause * 2).await;
            proxy.set(Weather::CLEAR);
        }
    }
}

async fn order_a_client(stage: &ChaosStage, fault: InjectedFault, dice: &mut Dice) {
    let number = stage.next_order();
    let pause = Duration::from_millis(1_000);
    let order = match fault {
        InjectedFault::ClientKilled => ClientOrder::Vanish(number),
        InjectedFault::ClientLeaves => ClientOrder::Leave(number),
        InjectedFault::ClientAway => ClientOrder::StayAway(number, pause),
        _ => ClientOrder::Sleep(number, pause),
    };
    {
        let clients = stage.clients.lock();
        let here: Vec<_> = clients.iter().filter(|client| !client.dismissed).collect();
        here[dice.index(here.len())].orders.send_replace(order);
    }
    if matches!(fault, InjectedFault::ClientAway | InjectedFault::ClientSleeps) {
        sleep(pause).await;
    }
}

async fn inject_into_replica(stage: &ChaosStage, fault: InjectedFault, dice: &mut Dice) -> Injected {
    let number = dice.index(stage::REPLICAS);
    if fault == InjectedFault::ReplicaDrained {
        let began = Instant::now();
        drain(stage, number).await;
        return Injected { began, over: Instant::now() };
    }
    // Held while no process is running.
    let mut process = stage.places[number].process.lock().await;
    let began = Instant::now();
    match fault {
        InjectedFault::ReplicaKilled => {
            process.kill();
            sleep(Duration::from_millis(dice.between(100, 600))).await;
            stage.replace(number, &mut process);
        }
        _ => {
            process.signal("-STOP");
            sleep(Duration::from_millis(1_500)).await;
            process.signal("-CONT");
        }
    }
    Injected { began, over: Instant::now() }
}

/// Drains a replica and starts a new one in its place.
pub async fn drain(stage: &ChaosStage, number: usize) {
    let mut process = stage.places[number].process.lock().await;
    process.signal("-TERM");
    let code = process.ended(Duration::from_secs(30)).await;
    if code != Some(0) {
        stage.ledger.lock().strange.push(format!("a drained replica ended with {code:?}"));
    }
    stage.replace(number, &mut process);
}

async fn inject_into_redis(stage: &ChaosStage, fault: InjectedFault, dice: &mut Dice) -> Injected {
    let mut redis = stage.redis.lock().await;
    let mut began = Instant::now();
    let pause = Duration::from_millis(dice.between(400, 1_200));
    let milliseconds = pause.as_millis().to_string();
    match fault {
        InjectedFault::RedisKilled => {
            redis.kill();
            sleep(pause / 2).await;
            blocking(|| redis.restart());
            loaded(redis.port()).await;
        }
        InjectedFault::RedisFrozen => {
            redis.freeze();
            sleep(pause * 2).await;
            redis.thaw();
        }
        InjectedFault::RedisAsleep => say(redis.port(), &format!("DEBUG SLEEP {}", (pause * 2).as_secs_f64())).await,
        InjectedFault::RedisLoading => began = load_slowly(&mut redis).await,
        InjectedFault::WritesPaused | InjectedFault::AllPaused => {
            let which = if fault == InjectedFault::AllPaused { "ALL" } else { "WRITE" };
            say(redis.port(), &format!("CLIENT PAUSE {milliseconds} {which}")).await;
            sleep(pause).await;
        }
        InjectedFault::PubSubKilled => say(redis.port(), "CLIENT KILL TYPE pubsub").await,
        InjectedFault::CommandsKilled => say(redis.port(), "CLIENT KILL TYPE normal SKIPME yes").await,
        InjectedFault::OutOfMemory => {
            say(redis.port(), "CONFIG SET maxmemory 1mb").await;
            sleep(pause).await;
            say(redis.port(), "CONFIG SET maxmemory 0").await;
        }
        InjectedFault::ScriptsFlushed => say(redis.port(), "SCRIPT FLUSH").await,
        InjectedFault::RolledBack => {
            say(redis.port(), "SAVE").await;
            sleep(pause).await;
            began = roll_back(&mut redis).await;
        }
        InjectedFault::Emptied => blocking(|| redis.restart_empty()),
        InjectedFault::Flushed => say(redis.port(), "FLUSHALL").await,
        InjectedFault::FailoverPlanned => began = fail_over(stage, &mut redis, None).await,
        _ => began = fail_over(stage, &mut redis, Some(pause)).await,
    }
    Injected { began, over: Instant::now() }
}

/// Kills it and restores its last dump, like a server that has only RDB files.
pub async fn roll_back(redis: &mut RedisServer) -> Instant {
    let began = Instant::now();
    blocking(|| redis.restart_from_dump());
    loaded(redis.port()).await;
    say(redis.port(), "CONFIG SET appendonly yes").await;
    rewritten(redis.port()).await;
    began
}

/// Kills it and restarts it with so much data that loading takes a while.
async fn load_slowly(redis: &mut RedisServer) -> Instant {
    say(redis.port(), "DEBUG POPULATE 5000 filler").await;
    say(redis.port(), "BGREWRITEAOF").await;
    rewritten(redis.port()).await;
    let began = Instant::now();
    redis.kill();
    blocking(|| redis.restart_with(&["--key-load-delay", "200", "--loading-process-events-interval-bytes", "1024"]));
    loaded(redis.port()).await;
    began
}

/// Another server takes over. `lag`: how long it had been disconnected from the previous one, whose later writes are
/// then lost.
async fn fail_over(stage: &ChaosStage, redis: &mut RedisServer, lag: Option<Duration>) -> Instant {
    let standby = Standby::of(redis).await;
    match lag {
        Some(lag) => {
            standby.fall_behind();
            sleep(lag).await;
            let began = Instant::now();
            standby.take_over_from_the_dead(stage, redis).await;
            began
        }
        None => {
            let began = Instant::now();
            standby.take_over(stage, redis).await;
            began
        }
    }
}

fn blocking<R>(act: impl FnOnce() -> R) -> R {
    tokio::task::block_in_place(act)
}
