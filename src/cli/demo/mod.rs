//! `tickgate demo`: demonstrates the guarantees on this machine. Starts everything it needs, kills it under load, and
//! counts what was lost. Touches only what it started, and leaves nothing behind.

mod cast;
mod stage;
mod tally;

use std::{path::PathBuf, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tickgate_client::Builder;
use tickgate_wire::model::UserId;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep},
};

use self::{
    cast::{CHANNEL, DemoClient, Publishers, SharedRecord},
    stage::DemoStage,
    tally::{ClientRecord, DemoResult, PublishResults},
};
use super::{CommandFailure, print, token::Signer};
use crate::{auth::Rights, config::parse_duration, tasks::Tasks};

const EXAMPLES: &str = "\
Examples:
  tickgate demo kill-a-replica               see it happen, in half a minute
  tickgate demo kill-a-replica --json        for programs: one object per line
  tickgate demo kill-a-replica --clients 300 --rate 500

Requires redis-server; everything runs on loopback, in a temporary folder, and is
stopped at the end. Exits with 0 if nothing was lost, repeated or out of order.";

/// Several clients per user, so that one order goes to clients on every replica.
const USERS: usize = 4;
const PUBLISHERS: u64 = 4;
/// How long Redis is down.
const OUTAGE: Duration = Duration::from_secs(2);
/// How long to wait for clients to reconnect.
const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN_TTL: Duration = Duration::from_secs(3600);

/// Kill a replica and Redis under load, and count lost messages
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    show: DemoScenario,
}

#[derive(Debug, clap::Subcommand)]
enum DemoScenario {
    /// Kill one of three replicas, then Redis, under load, and count what clients received
    KillAReplica(DemoOptions),
}

#[derive(Debug, clap::Args)]
struct DemoOptions {
    /// Clients, spread over the three replicas
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(4..=1000))]
    clients: u16,
    /// Publications per second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(4..=1000))]
    rate: u32,
    /// Time between two steps
    #[arg(long, default_value = "4s", value_parser = parse_duration)]
    pause: Duration,
    /// The redis-server program
    #[arg(long, default_value = "redis-server", value_name = "PROGRAM")]
    redis_server: PathBuf,
    /// Print one JSON object per step
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<(), CommandFailure> {
    let DemoScenario::KillAReplica(options) = args.show;
    let unheard = |error| CommandFailure::new(format!("cannot listen for signals: {error}"));
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt()).map_err(unheard)?, signal(SignalKind::terminate()).map_err(unheard)?);
    tokio::select! {
        result = kill_a_replica(&options) => result,
        _ = interrupt.recv() => Err(CommandFailure::new("interrupted; all child processes stopped")),
        _ = terminate.recv() => Err(CommandFailure::new("terminated; all child processes stopped")),
    }
}

/// The steps, in order.
async fn kill_a_replica(options: &DemoOptions) -> Result<(), CommandFailure> {
    let began = Instant::now();
    let mut performance = Performance::begin(options).await?;
    performance
        .act("started", &format!("three replicas over redis-server, port {}", performance.stage.redis_port()))?;
    performance.seat(options.clients.into())?;
    performance.eventually("every client to be subscribed", Performance::all_connected).await?;
    performance.act("subscribed", &format!("{} clients follow the orders of {USERS} users", options.clients))?;
    let traffic = performance.start_traffic(options.rate);
    performance.act("publishing", &format!("publishers send {} orders a second", options.rate))?;
    sleep(options.pause).await;
    performance.lose_a_replica().await?;
    sleep(options.pause).await;
    performance.lose_redis().await?;
    sleep(options.pause).await;
    traffic.end(PATIENCE).await;
    performance.eventually("every client to have everything", Performance::all_have_all).await?;
    performance.act("quiet", "publishers stopped; every client has everything")?;
    performance.finish(began.elapsed()).await
}

struct Performance {
    stage: DemoStage,
    clients: Vec<SharedRecord>,
    results: Arc<Mutex<PublishResults>>,
    tasks: Tasks,
    began: Instant,
    json: bool,
}

impl Performance {
    async fn begin(options: &DemoOptions) -> Result<Self, CommandFailure> {
        let began = Instant::now();
        let stage = DemoStage::set(&options.redis_server).await?;
        let results = PublishResults { accepted: vec![Default::default(); USERS], ..PublishResults::default() };
        let (results, tasks) = (Arc::new(Mutex::new(results)), Tasks::new());
        Ok(Self { stage, clients: Vec::new(), results, tasks, began, json: options.json })
    }

    /// Reports a step.
    fn act(&self, act: &str, text: &str) -> Result<(), CommandFailure> {
        let at = self.began.elapsed();
        if self.json {
            return print(&json!({ "act": act, "at_ms": at.as_millis() as u64, "text": text }).to_string());
        }
        print(&format!("{:>6.1} s  {text}", at.as_secs_f64()))
    }

    fn seat(&mut self, count: usize) -> Result<(), CommandFailure> {
        let signer = Signer::of_secret(&self.stage.secret);
        for number in 0..count {
            let user_number = number % USERS;
            let user = UserId::new(&cast::user(user_number))
                .map_err(|error| CommandFailure::new(format!("a user: {error}")))?;
            let (token, _) = signer.sign(&user, &Rights::default(), TOKEN_TTL, std::time::SystemTime::now())?;
            let record = SharedRecord::new(Mutex::new(ClientRecord { user: user_number, ..ClientRecord::default() }));
            let mut replicas: Vec<_> = (0..self.stage.listeners.len()).collect();
            replicas.rotate_left(number / USERS % self.stage.listeners.len());
            let mut endpoints = replicas.iter().map(|at| format!("ws://{}/ws/trading", self.stage.listeners[*at]));
            let builder = Builder::new(endpoints.next().unwrap_or_default()).token(token).channel(CHANNEL);
            let (client, driver) = endpoints.fold(builder, Builder::replica).build();
            let follower = DemoClient { client, replicas, record: Arc::clone(&record) };
            self.tasks.spawn("follower", follower.run(self.tasks.stop()));
            // Ends together with its client.
            self.tasks.spawn("client", driver.run());
            self.clients.push(record);
        }
        Ok(())
    }

    /// Publishers; they end when this is dropped.
    fn start_traffic(&self, rate: u32) -> Tasks {
        let publishers = Arc::new(Publishers {
            operations: self.stage.operations.clone(),
            api_key: self.stage.api_key.clone(),
            results: Arc::clone(&self.results),
            users: USERS,
            pace: Duration::from_secs(1) * PUBLISHERS as u32 / rate,
        });
        let traffic = Tasks::new();
        for first in 0..PUBLISHERS {
            traffic.spawn("publisher", Arc::clone(&publishers).run(first, PUBLISHERS, traffic.stop()));
        }
        traffic
    }

    async fn lose_a_replica(&mut self) -> Result<(), CommandFailure> {
        let here = |clients: &[SharedRecord]| clients.iter().filter(|c| c.lock().replica == Some(1)).count();
        let count = here(&self.clients);
        let pid = self.stage.kill_replica(1).unwrap_or_default();
        let killed = Instant::now();
        self.act("replica_killed", &format!("replica 2 killed (SIGKILL, process {pid}), with {count} clients on it"))?;
        let moved = |show: &Self| show.all_connected() && here(&show.clients) == 0;
        self.eventually("its clients to reconnect", moved).await?;
        let took = killed.elapsed().as_millis();
        self.act("clients_back", &format!("its clients reconnected to the other replicas after {took} ms"))
    }

    async fn lose_redis(&mut self) -> Result<(), CommandFailure> {
        let pid = self.stage.kill_redis().unwrap_or_default();
        self.act("redis_killed", &format!("Redis killed (SIGKILL, process {pid}); clients stay connected"))?;
        sleep(OUTAGE).await;
        let accepted =
            |show: &Self| show.results.lock().accepted.iter().map(std::collections::BTreeMap::len).sum::<usize>();
        self.stage.start_redis()?;
        let (back, before) = (Instant::now(), accepted(self));
        self.act("redis_started", &format!("Redis started again, after {} s", OUTAGE.as_secs()))?;
        self.eventually("publications to be accepted", |show| accepted(show) > before).await?;
        let took = back.elapsed().as_millis();
        self.act("accepted_again", &format!("publications are accepted again after {took} ms"))
    }

    fn all_connected(&self) -> bool {
        self.clients.iter().all(|client| client.lock().replica.is_some())
    }

    fn all_have_all(&self) -> bool {
        let results = self.results.lock();
        self.clients.iter().all(|client| client.lock().has_all(&results))
    }

    /// Waits until the condition holds.
    async fn eventually(&self, what: &str, is: impl Fn(&Self) -> bool) -> Result<(), CommandFailure> {
        let deadline = Instant::now() + PATIENCE;
        while !is(self) {
            if Instant::now() > deadline {
                return Err(CommandFailure::new(format!("timed out after {PATIENCE:?} waiting for {what}")));
            }
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Stops everything and prints the result.
    async fn finish(self, took: Duration) -> Result<(), CommandFailure> {
        self.tasks.end(PATIENCE).await;
        let results = self.results.lock();
        let records: Vec<_> = self.clients.iter().map(|client| client.lock()).collect();
        let tally = DemoResult::of(&results, records.iter().map(|record| &**record));
        if self.json {
            let mut all = tally.json();
            all["seconds"] = Value::from(took.as_secs_f64());
            print(&json!({ "tally": all }).to_string())?;
        } else {
            print(&format!("\n{}", tally.text()))?;
        }
        if tally.is_clean() { Ok(()) } else { Err(CommandFailure::new("not every message arrived once and in order")) }
    }
}
