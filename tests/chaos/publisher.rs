//! Publishers: each publication has a `msg_id` and is retried on any replica until it is acknowledged or given up. Each
//! publisher has at most one in flight.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};
use tickgate::tasks::Stop;
use tickgate_client::{
    Error,
    http::{HttpRequest, Response},
};
use tokio::time::sleep;

use crate::{
    dice::Dice,
    gateway::exchange,
    record::{SharedLedger, TestedChannel},
};

/// After this time, an unacknowledged publication is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(40);

/// State shared by all publishers.
pub struct Traffic {
    pub channels: Vec<TestedChannel>,
    /// The current addresses of the replicas for publishing.
    pub replicas: Arc<RwLock<Vec<SocketAddr>>>,
    pub ledger: SharedLedger,
    numbers: AtomicU64,
    /// Pause between two publications of one publisher.
    pub pause: Mutex<Duration>,
}

impl Traffic {
    pub fn new(
        channels: Vec<TestedChannel>,
        replicas: Arc<RwLock<Vec<SocketAddr>>>,
        ledger: SharedLedger,
    ) -> Arc<Self> {
        let pause = Mutex::new(Duration::from_millis(30));
        Arc::new(Self { channels, replicas, ledger, numbers: AtomicU64::new(1), pause })
    }

    /// Publishes at random until the end.
    pub async fn run(self: Arc<Self>, mut dice: Dice, mut stop: Stop) {
        while !stop.stopping() {
            let channel = self.channels[dice.index(self.channels.len())].clone();
            self.publish(&channel, 120, &mut dice).await;
            let pause = *self.pause.lock();
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.wait() => {}
            }
        }
    }

    /// Publishes once on any replica, with as many attempts as necessary. Returns whether it was acknowledged.
    pub async fn publish(&self, channel: &TestedChannel, padding: usize, dice: &mut Dice) -> bool {
        self.publish_by(&[], channel, padding, dice).await
    }

    /// The same on one of these replicas; on any if the list is empty.
    pub async fn publish_by(
        &self,
        named: &[SocketAddr],
        channel: &TestedChannel,
        padding: usize,
        dice: &mut Dice,
    ) -> bool {
        let (number, body) = self.next(channel, padding);
        let began = Instant::now();
        while began.elapsed() < GIVE_UP_AFTER {
            let replica = {
                let all = self.replicas.read();
                let replicas = if named.is_empty() { &**all } else { named };
                replicas[dice.index(replicas.len())]
            };
            if self.take_answer(channel, number, post(replica, &body).await) {
                return true;
            }
            sleep(Duration::from_millis(dice.between(20, 80))).await;
        }
        self.ledger.lock().given_up += 1;
        false
    }

    /// Makes one attempt for one publication.
    pub async fn attempt(&self, channel: &TestedChannel, padding: usize, dice: &mut Dice) {
        let (number, body) = self.next(channel, padding);
        let replica = {
            let replicas = self.replicas.read();
            replicas[dice.index(replicas.len())]
        };
        self.take_answer(channel, number, post(replica, &body).await);
    }

    /// The number and the body of the next publication.
    fn next(&self, channel: &TestedChannel, padding: usize) -> (u64, String) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let mut body = json!({
            "channel": channel.name,
            "user": channel.user.as_deref(),
            "msg_id": format!("m{number}"),
            "data": {
                "type": "event",
                "number": number,
                "user": channel.user.as_deref(),
                "stream": &*channel.stream.0,
                "padding": "x".repeat(padding),
            },
        });
        if channel.user.is_none() {
            body.as_object_mut().expect("an object").remove("user");
        }
        (number, body.to_string())
    }

    fn take_answer(&self, channel: &TestedChannel, number: u64, answer: Result<Response, Error>) -> bool {
        let mut ledger = self.ledger.lock();
        let Ok(answer) = answer else {
            ledger.unanswered += 1;
            return false;
        };
        let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        match answer.status.as_u16() {
            200 => match body["id"].as_str().and_then(|id| id.parse().ok()) {
                Some(id) => {
                    ledger.duplicates += u64::from(body["duplicate"] == true);
                    ledger.acknowledge(&channel.stream, id, number);
                    return true;
                }
                None => ledger.strange.push(format!("accepted without an id: {}", answer.body)),
            },
            503 if answer.body.contains("unknown") => ledger.unknown += 1,
            503 | 507 | 429 => ledger.refused += 1,
            504 => ledger.unknown += 1,
            _ => ledger.strange.push(format!("{} {}", answer.status, answer.body)),
        }
        false
    }
}

async fn post(replica: SocketAddr, publication: &str) -> Result<Response, Error> {
    exchange(HttpRequest::post(format!("http://{replica}/api/v1/publish"), publication.to_owned())).await
}
