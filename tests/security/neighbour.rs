//! Another user of the gateway, from another address: what it asks for again and again, and how long that takes.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use crate::support::{
    client::{Client, Request},
    replica::token,
};

/// Time between two questions.
const PACE: Duration = Duration::from_millis(200);

pub struct Neighbour {
    client: Client,
    asked: u64,
}

/// How long answers took.
#[derive(Debug, Default)]
pub struct Latencies {
    sorted: Vec<Duration>,
    /// Asked, and told to try again.
    pub refused: usize,
}

/// What a neighbour asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    /// A channel that nobody follows yet.
    New,
    /// All that it ever missed of a channel.
    Missed(&'static str),
    /// Who follows a channel that it follows.
    Presence,
}

/// A neighbour that asks until it is told to stop.
pub struct Asking {
    stop: oneshot::Sender<()>,
    asking: JoinHandle<(Neighbour, Latencies)>,
}

impl Neighbour {
    pub async fn at(gateway: SocketAddr) -> Self {
        let mut client = Request::new(gateway, "/ws/market").name("the neighbour").open().await;
        client.greeted().await;
        Self { client, asked: 0 }
    }

    /// Subscribes to channels that nobody follows yet, one after the other, from now on.
    pub fn subscribes(self) -> Asking {
        self.asks(Question::New)
    }

    /// The same for so long.
    pub async fn subscribes_for(self, time: Duration) -> (Self, Latencies) {
        self.asks(Question::New).for_so_long(time).await
    }

    /// Comes back to a channel again and again, for all that it ever missed, from now on.
    pub fn comes_back(self, channel: &'static str) -> Asking {
        self.asks(Question::Missed(channel))
    }

    /// The same for so long.
    pub async fn comes_back_for(self, channel: &'static str, time: Duration) -> (Self, Latencies) {
        self.comes_back(channel).for_so_long(time).await
    }

    /// Asks who else follows a channel, that it follows itself, from now on.
    pub fn wonders(self) -> Asking {
        self.asks(Question::Presence)
    }

    /// The same for so long.
    pub async fn wonders_for(self, time: Duration) -> (Self, Latencies) {
        self.wonders().for_so_long(time).await
    }

    fn asks(mut self, question: Question) -> Asking {
        let (stop, mut stopped) = oneshot::channel();
        let asking = tokio::spawn(async move {
            let mut latencies = Latencies::default();
            let mut pace = interval(PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // At least once.
            while latencies.asked() == 0 || stopped.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
                pace.tick().await;
                match self.ask(question).await {
                    Some(took) => latencies.sorted.push(took),
                    None => latencies.refused += 1,
                }
            }
            latencies.sorted.sort_unstable();
            (self, latencies)
        });
        Asking { stop, asking }
    }

    /// How long the answer took; `None` when it was a refusal.
    async fn ask(&mut self, question: Question) -> Option<Duration> {
        self.asked += 1;
        let channel = match question {
            Question::New | Question::Presence => format!("trades:NEW{}", self.asked),
            Question::Missed(channel) => channel.to_owned(),
        };
        let element = match question {
            Question::New | Question::Presence => json!(channel),
            Question::Missed(channel) => json!({"channel": channel, "since": "earliest"}),
        };
        let began = Instant::now();
        let answer = self.client.ask(json!({"type": "subscribe", "channels": [element]})).await;
        let mut took = (answer["errors"] == json!([])).then(|| began.elapsed());
        if question == Question::Presence {
            let began = Instant::now();
            let answer = self.client.ask(json!({"type": "presence", "channel": channel})).await;
            took = (answer["type"] == "presence").then(|| began.elapsed());
        }
        self.client.ask(json!({"type": "unsubscribe", "channels": [channel]})).await;
        took
    }
}

/// Users connect one after the other for so long: how long it takes until each is greeted.
pub async fn joins_for(gateway: SocketAddr, time: Duration) -> Latencies {
    let (mut latencies, mut pace, until) = (Latencies::default(), interval(PACE), Instant::now() + time);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let own = token("neighbour");
    while Instant::now() < until {
        pace.tick().await;
        let began = Instant::now();
        match Request::new(gateway, "/ws/trading").token(&own).try_open().await {
            Ok(mut client) => {
                client.greeted().await;
                latencies.sorted.push(began.elapsed());
                client.close().await;
            }
            Err(_) => latencies.refused += 1,
        }
    }
    latencies.sorted.sort_unstable();
    latencies
}

impl Asking {
    async fn for_so_long(self, time: Duration) -> (Neighbour, Latencies) {
        tokio::time::sleep(time).await;
        self.stop().await
    }

    /// Ends after the answer that is waited for.
    pub async fn stop(self) -> (Neighbour, Latencies) {
        // It has ended by itself only when it panicked, which shows here.
        let _ = self.stop.send(());
        self.asking.await.expect("the neighbour to be served")
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

    fn asked(&self) -> usize {
        self.sorted.len() + self.refused
    }

    /// The latency that this share of the answers did not exceed.
    fn quantile(&self, share: f64) -> Duration {
        let at = (self.sorted.len() as f64 * share) as usize;
        self.sorted.get(at.min(self.sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |share| self.quantile(share).as_secs_f64() * 1e3;
        let (p50, p99, max) = (ms(0.5), ms(0.99), ms(1.0));
        write!(f, "{:4} asked, {} refused", self.asked(), self.refused)?;
        write!(f, ", p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms")
    }
}
