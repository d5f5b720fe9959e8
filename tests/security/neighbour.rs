//! Other users of the gateway, from another address: what they ask for again and again, and how long that takes.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval_at, sleep},
};

use crate::support::{
    client::{Client, Request},
    replica::token,
};

/// How many there are: so many answers that the slowest one in a hundred is not simply the slowest.
const NEIGHBOURS: u32 = 8;
/// Time between two questions of one of them.
const PACE: Duration = Duration::from_millis(200);

/// What neighbours ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether somebody is there.
    Ping,
    /// A channel that nobody follows yet.
    New,
    /// All that they ever missed of a channel.
    Missed(&'static str),
    /// Who follows a channel that they follow.
    Presence,
    /// To be let in, with a token.
    Join,
}

struct Neighbour {
    gateway: SocketAddr,
    number: u32,
    client: Client,
    asked: u64,
}

/// All of them.
pub struct Neighbours(Vec<Neighbour>);

/// Neighbours that ask until they are told to stop.
pub struct Asking {
    stop: watch::Sender<bool>,
    asking: JoinSet<(Neighbour, Latencies)>,
}

/// How long answers took.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    sorted: Vec<Duration>,
    /// Asked, and told to try again.
    pub refused: usize,
}

impl Neighbours {
    pub async fn at(gateway: SocketAddr) -> Self {
        let mut all = Vec::new();
        for number in 0..NEIGHBOURS {
            let mut client = Request::new(gateway, "/ws/market").name("a neighbour").open().await;
            client.greeted().await;
            all.push(Neighbour { gateway, number, client, asked: 0 });
        }
        Self(all)
    }

    /// Ask from now on, at an even distance from each other.
    pub fn ask(self, question: Question) -> Asking {
        let (stop, stopped) = watch::channel(false);
        let mut asking = JoinSet::new();
        for neighbour in self.0 {
            asking.spawn(neighbour.asks(question, stopped.clone()));
        }
        Asking { stop, asking }
    }

    /// The same for so long.
    pub async fn ask_for(self, question: Question, time: Duration) -> (Self, Latencies) {
        let asking = self.ask(question);
        sleep(time).await;
        asking.stop().await
    }
}

impl Asking {
    /// Ends after the answers that are waited for.
    pub async fn stop(self) -> (Neighbours, Latencies) {
        self.stop.send_replace(true);
        let (mut all, mut latencies) = (Vec::new(), Latencies::default());
        for (neighbour, seen) in self.asking.join_all().await {
            all.push(neighbour);
            latencies.add(seen);
        }
        (Neighbours(all), latencies)
    }
}

impl Neighbour {
    async fn asks(mut self, question: Question, stopped: watch::Receiver<bool>) -> (Self, Latencies) {
        let mut latencies = Latencies::default();
        let turn = PACE / NEIGHBOURS * self.number;
        let mut pace = interval_at(tokio::time::Instant::now() + turn, PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // At least once.
        while latencies.asked() == 0 || !*stopped.borrow() {
            pace.tick().await;
            match self.ask(question).await {
                Some(took) => latencies.sorted.push(took),
                None => latencies.refused += 1,
            }
        }
        (self, latencies)
    }

    /// How long the answer took; `None` when it was a refusal.
    async fn ask(&mut self, question: Question) -> Option<Duration> {
        self.asked += 1;
        let new = format!("trades:NEW{}X{}", self.number, self.asked);
        match question {
            Question::Ping => self.timed(json!({"type": "ping"}), |answer| answer["type"] == "pong").await,
            Question::New => self.subscribe(&new, json!(new)).await,
            Question::Missed(channel) => {
                self.subscribe(channel, json!({"channel": channel, "since": "earliest"})).await
            }
            Question::Presence => {
                self.client.ask(json!({"type": "subscribe", "channels": [new]})).await;
                let question = json!({"type": "presence", "channel": new});
                let took = self.timed(question, |answer| answer["type"] == "presence").await;
                self.client.ask(json!({"type": "unsubscribe", "channels": [new]})).await;
                took
            }
            Question::Join => self.join().await,
        }
    }

    async fn subscribe(&mut self, channel: &str, element: Value) -> Option<Duration> {
        let question = json!({"type": "subscribe", "channels": [element]});
        let took = self.timed(question, |answer| answer["errors"] == json!([])).await;
        self.client.ask(json!({"type": "unsubscribe", "channels": [channel]})).await;
        took
    }

    async fn timed(&mut self, question: Value, is_granted: impl Fn(&Value) -> bool) -> Option<Duration> {
        let began = Instant::now();
        let answer = self.client.ask(question).await;
        is_granted(&answer).then(|| began.elapsed())
    }

    async fn join(&self) -> Option<Duration> {
        let own = token(&format!("neighbour-{}", self.number));
        let began = Instant::now();
        let mut client = Request::new(self.gateway, "/ws/trading").token(&own).try_open().await.ok()?;
        client.greeted().await;
        let took = began.elapsed();
        client.close().await;
        Some(took)
    }
}

impl Latencies {
    /// Takes those of another time in.
    pub fn add(&mut self, other: Self) {
        self.sorted.extend(other.sorted);
        self.sorted.sort_unstable();
        self.refused += other.refused;
    }

    /// The longest that an answer took.
    pub fn max(&self) -> Duration {
        self.quantile(1.0)
    }

    pub fn median(&self) -> Duration {
        self.quantile(0.5)
    }

    /// What all but one in a hundred did not exceed.
    pub fn p99(&self) -> Duration {
        self.quantile(0.99)
    }

    pub const fn asked(&self) -> usize {
        self.sorted.len() + self.refused
    }

    /// The latency that this share of the answers did not exceed.
    fn quantile(&self, share: f64) -> Duration {
        let at = (self.sorted.len() as f64 * share) as usize;
        self.sorted.get(at.min(self.sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}
