//! `tickgate demo`: what the guarantees mean, shown on this machine. Starts all it needs, breaks it before the user's eyes,
//! and counts what that cost. Never touches what it did not start, and leaves nothing behind.

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
    cast::{CHANNEL, Follower, Publishers, SharedDiary},
    stage::Stage,
    tally::{Diary, Tally, Told},
};
use super::{Failure, print, token::Signer};
use crate::{auth::Rights, config::parse_duration, tasks::Tasks};

const EXAMPLES: &str = "\
Examples:
  tickgate demo kill-a-replica               see it happen, in half a minute
  tickgate demo kill-a-replica --json        for programs: an object a line
  tickgate demo kill-a-replica --clients 300 --rate 500

Wants redis-server; everything runs on loopback, in a temporary folder, and is
stopped at the end. Ends with 0 when nothing was lost, repeated or out of order.";

/// Several clients of each user, so that one order goes to clients of every replica.
const USERS: usize = 4;
const PUBLISHERS: u64 = 4;
/// Redis is away for so long.
const OUTAGE: Duration = Duration::from_secs(2);
/// Whoever is not back by then is not coming.
const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN_TTL: Duration = Duration::from_secs(3600);

/// Break it before your eyes: kill a replica and Redis under load, count what is lost
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    show: Show,
}

#[derive(Debug, clap::Subcommand)]
enum Show {
    /// Kill one of three replicas, then Redis, under load, and count what clients got
    KillAReplica(Options),
}

#[derive(Debug, clap::Args)]
struct Options {
    /// Clients, spread over the three replicas
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(4..=1000))]
    clients: u16,
    /// Publications a second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(4..=1000))]
    rate: u32,
    /// Time between two acts
    #[arg(long, default_value = "4s", value_parser = parse_duration)]
    pause: Duration,
    /// The program that is Redis
    #[arg(long, default_value = "redis-server", value_name = "PROGRAM")]
    redis_server: PathBuf,
    /// Print a JSON object an act
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let Show::KillAReplica(options) = args.show;
    let unheard = |error| Failure::new(format!("can't listen for signals: {error}"));
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt()).map_err(unheard)?, signal(SignalKind::terminate()).map_err(unheard)?);
    tokio::select! {
        result = kill_a_replica(&options) => result,
        _ = interrupt.recv() => Err(Failure::new("interrupted; all that was started is stopped")),
        _ = terminate.recv() => Err(Failure::new("told to end; all that was started is stopped")),
    }
}

/// The acts, in their order.
async fn kill_a_replica(options: &Options) -> Result<(), Failure> {
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
    stage: Stage,
    clients: Vec<SharedDiary>,
    told: Arc<Mutex<Told>>,
    tasks: Tasks,
    began: Instant,
    json: bool,
}

impl Performance {
    async fn begin(options: &Options) -> Result<Self, Failure> {
        let began = Instant::now();
        let stage = Stage::set(&options.redis_server).await?;
        let told = Told { accepted: vec![Default::default(); USERS], ..Told::default() };
        let (told, tasks) = (Arc::new(Mutex::new(told)), Tasks::new());
        Ok(Self { stage, clients: Vec::new(), told, tasks, began, json: options.json })
    }

    /// Tells what has just happened.
    fn act(&self, act: &str, text: &str) -> Result<(), Failure> {
        let at = self.began.elapsed();
        if self.json {
            return print(&json!({ "act": act, "at_ms": at.as_millis() as u64, "text": text }).to_string());
        }
        print(&format!("{:>6.1} s  {text}", at.as_secs_f64()))
    }

    fn seat(&mut self, count: usize) -> Result<(), Failure> {
        let signer = Signer::of_secret(&self.stage.secret);
        for number in 0..count {
            let user_number = number % USERS;
            let user =
                UserId::new(&cast::user(user_number)).map_err(|error| Failure::new(format!("a user: {error}")))?;
            let (token, _) = signer.sign(&user, &Rights::default(), TOKEN_TTL, std::time::SystemTime::now())?;
            let diary = SharedDiary::new(Mutex::new(Diary { user: user_number, ..Diary::default() }));
            let mut replicas: Vec<_> = (0..self.stage.listeners.len()).collect();
            replicas.rotate_left(number / USERS % self.stage.listeners.len());
            let mut endpoints = replicas.iter().map(|at| format!("ws://{}/ws/trading", self.stage.listeners[*at]));
            let builder = Builder::new(endpoints.next().unwrap_or_default()).token(token).channel(CHANNEL);
            let (client, driver) = endpoints.fold(builder, Builder::replica).build();
            let follower = Follower { client, replicas, diary: Arc::clone(&diary) };
            self.tasks.spawn("follower", follower.run(self.tasks.stop()));
            // It ends with its client.
            self.tasks.spawn("client", driver.run());
            self.clients.push(diary);
        }
        Ok(())
    }

    /// Publishers that end by themselves when their tasks are ended.
    fn start_traffic(&self, rate: u32) -> Tasks {
        let publishers = Arc::new(Publishers {
            operations: self.stage.operations.clone(),
            api_key: self.stage.api_key.clone(),
            told: Arc::clone(&self.told),
            users: USERS,
            pace: Duration::from_secs(1) * PUBLISHERS as u32 / rate,
        });
        let traffic = Tasks::new();
        for first in 0..PUBLISHERS {
            traffic.spawn("publisher", Arc::clone(&publishers).run(first, PUBLISHERS, traffic.stop()));
        }
        traffic
    }

    async fn lose_a_replica(&mut self) -> Result<(), Failure> {
        let here = |clients: &[SharedDiary]| clients.iter().filter(|c| c.lock().replica == Some(1)).count();
        let count = here(&self.clients);
        let pid = self.stage.kill_replica(1).unwrap_or_default();
        let killed = Instant::now();
        self.act("replica_killed", &format!("replica 2 killed (SIGKILL, process {pid}), with {count} clients on it"))?;
        let moved = |show: &Self| show.all_connected() && here(&show.clients) == 0;
        self.eventually("its clients to be back", moved).await?;
        let took = killed.elapsed().as_millis();
        self.act("clients_back", &format!("its clients are back on the others, {took} ms later"))
    }

    async fn lose_redis(&mut self) -> Result<(), Failure> {
        let pid = self.stage.kill_redis().unwrap_or_default();
        self.act("redis_killed", &format!("Redis killed (SIGKILL, process {pid}); clients stay connected"))?;
        sleep(OUTAGE).await;
        let accepted =
            |show: &Self| show.told.lock().accepted.iter().map(std::collections::BTreeMap::len).sum::<usize>();
        self.stage.start_redis()?;
        let (back, before) = (Instant::now(), accepted(self));
        self.act("redis_started", &format!("Redis started again, after {} s", OUTAGE.as_secs()))?;
        self.eventually("publications to be accepted", |show| accepted(show) > before).await?;
        let took = back.elapsed().as_millis();
        self.act("accepted_again", &format!("publications are accepted again, {took} ms later"))
    }

    fn all_connected(&self) -> bool {
        self.clients.iter().all(|client| client.lock().replica.is_some())
    }

    fn all_have_all(&self) -> bool {
        let told = self.told.lock();
        self.clients.iter().all(|client| client.lock().has_all(&told))
    }

    /// Waits until it is so.
    async fn eventually(&self, what: &str, is: impl Fn(&Self) -> bool) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while !is(self) {
            if Instant::now() > deadline {
                return Err(Failure::new(format!("waited {PATIENCE:?} in vain for {what}")));
            }
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Stops everything and gives the account.
    async fn finish(self, took: Duration) -> Result<(), Failure> {
        self.tasks.end(PATIENCE).await;
        let told = self.told.lock();
        let diaries: Vec<_> = self.clients.iter().map(|client| client.lock()).collect();
        let tally = Tally::of(&told, diaries.iter().map(|diary| &**diary));
        if self.json {
            let mut all = tally.json();
            all["seconds"] = Value::from(took.as_secs_f64());
            print(&json!({ "tally": all }).to_string())?;
        } else {
            print(&format!("\n{}", tally.text()))?;
        }
        if tally.is_clean() { Ok(()) } else { Err(Failure::new("not everything arrived once and in order")) }
    }
}
