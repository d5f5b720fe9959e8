//! Other users of the gateway, from another address: what they request repeatedly, and how long it takes.

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
    client::{ConnectRequest, TestClient},
    replica::token,
};

/// Number of neighbours: with this many requests, the 99th percentile is not simply the maximum.
const NEIGHBOURS: u32 = 8;
/// Time between two requests of one neighbour.
const PACE: Duration = Duration::from_millis(200);

/// What neighbours request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// A ping.
    Ping,
    /// A channel that is not followed yet.
    New,
    /// All missed messages of a channel.
    Missed(&'static str),
    /// The presence of a channel to which they subscribe.
    Presence,
    /// A connection with a token.
    Join,
}

struct Neighbour {
    gateway: SocketAddr,
    number: u32,
    client: TestClient,
    asked: u64,
}

/// All of them.
pub struct Neighbours(Vec<Neighbour>);

/// Neighbours that send requests until they are stopped.
pub struct Asking {
    stop: watch::Sender<bool>,
    asking: JoinSet<(Neighbour, ResponseLatencies)>,
}

/// The latencies of responses.
#[derive(Clone, Debug, Default)]
pub struct ResponseLatencies {
    sorted: Vec<Duration>,
    /// Requests that were refused with a retry.
    pub refused: usize,
}

impl Neighbours {
    pub async fn at(gateway: SocketAddr) -> Self {
        let mut all = Vec::new();
        for number in 0..NEIGHBOURS {
            let mut client = ConnectRequest::new(gateway, "/ws/market").name("a neighbour").open().await;
            client.greeted().await;
            all.push(Neighbour { gateway, number, client, asked: 0 });
        }
        Self(all)
    }

    /// Start sending requests, evenly spaced.
    pub fn ask(self, question: Question) -> Asking {
        let (stop, stopped) = watch::channel(false);
        let mut asking = JoinSet::new();
        for neighbour in self.0 {
            asking.spawn(neighbour.asks(question, stopped.clone()));
        }
        Asking { stop, asking }
    }

    /// The same for a limited time.
    pub async fn ask_for(self, question: Question, time: Duration) -> (Self, ResponseLatencies) {
        let asking = self.ask(question);
        sleep(time).await;
        asking.stop().await
    }
}

impl Asking {
    /// Stops after pending responses.
    pub async fn stop(self) -> (Neighbours, ResponseLatencies) {
        self.stop.send_replace(true);
        let (mut all, mut latencies) = (Vec::new(), ResponseLatencies::default());
        for (neighbour, seen) in self.asking.join_all().await {
            all.push(neighbour);
            latencies.add(seen);
        }
        (Neighbours(all), latencies)
    }
}

impl Neighbour {
    async fn asks(mut self, question: Question, stopped: watch::Receiver<bool>) -> (Self, ResponseLatencies) {
        let mut latencies = ResponseLatencies::default();
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

    /// Returns the latency; `None` for a refusal.
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
        let mut client = ConnectRequest::new(self.gateway, "/ws/trading").token(&own).try_open().await.ok()?;
        client.greeted().await;
        let took = began.elapsed();
        client.close().await;
        Some(took)
    }
}

impl ResponseLatencies {
    /// Adds other latencies.
    pub fn add(&mut self, other: Self) {
        self.sorted.extend(other.sorted);
        self.sorted.sort_unstable();
        self.refused += other.refused;
    }

    /// The maximum latency.
    pub fn max(&self) -> Duration {
        self.quantile(1.0)
    }

    pub fn median(&self) -> Duration {
        self.quantile(0.5)
    }

    /// The 99th percentile.
    pub fn p99(&self) -> Duration {
        self.quantile(0.99)
    }

    pub const fn asked(&self) -> usize {
        self.sorted.len() + self.refused
    }

    /// The latency that this share of the responses did not exceed.
    fn quantile(&self, share: f64) -> Duration {
        let at = (self.sorted.len() as f64 * share) as usize;
        self.sorted.get(at.min(self.sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}
