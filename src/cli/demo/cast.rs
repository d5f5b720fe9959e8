//! The clients and publishers of a demo: no more clever than docs/wire.md asks of any. A client comes back to any replica
//! with its last id; a publisher sends again, with the same `msg_id`, until it is accepted.

use std::{sync::Arc, time::Duration};

use hyper::StatusCode;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use tickgate_wire::model::StreamId;
use tokio::time::{Instant, sleep};

use super::tally::{Diary, Told};
use crate::{
    cli::{
        Failure,
        http::Call,
        socket::{End, Socket},
    },
    tasks::Stop,
};

const CHANNEL: &str = "orders";
/// Before the next attempt, of clients and publishers alike.
const PAUSE: Duration = Duration::from_millis(20);
/// A publisher's patience with one attempt.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) type SharedDiary = Arc<Mutex<Diary>>;

/// The users' name by their number.
pub(super) fn user(number: usize) -> String {
    format!("trader-{}", number + 1)
}

/// One client.
pub(super) struct Follower {
    pub token: String,
    pub replicas: Arc<[String]>,
    /// The replica that it tries next.
    pub next: usize,
    pub diary: SharedDiary,
}

impl Follower {
    /// Follows until the end.
    pub(super) async fn run(mut self, mut stop: Stop) {
        while !stop.stopping() {
            let at = self.next;
            tokio::select! {
                // However it ended: any other replica does.
                _ = self.follow(at) => self.diary.lock().replica = None,
                () = stop.wait() => return,
            }
            self.next = (at + 1) % self.replicas.len();
            sleep(PAUSE).await;
        }
    }

    async fn follow(&self, at: usize) -> Result<(), End> {
        let mut socket = Socket::open(&self.replicas[at], Some(&self.token)).await?;
        let mut subscribe = json!({ "type": "subscribe", "channels": [CHANNEL] });
        if let Some(cursor) = self.diary.lock().cursor() {
            subscribe["since"] = json!({ CHANNEL: cursor });
        }
        socket.send(subscribe.to_string()).await?;
        loop {
            let text = socket.next().await?;
            self.hear(&text, at)?;
        }
    }

    fn hear(&self, text: &str, at: usize) -> Result<(), End> {
        let frame: Frame<'_> = serde_json::from_str(text).unwrap_or_default();
        let mut diary = self.diary.lock();
        match (frame.meta, frame.number, frame.kind) {
            (Some(meta), Some(number), _) => diary.heard.push((meta.id, number)),
            (_, _, "gap") => diary.gaps += 1,
            (_, _, "subscribed") if frame.errors > 0 => return Err(End::refused("not subscribed")),
            (_, _, "subscribed") => {
                diary.replica = Some(at);
                diary.connections += 1;
            }
            _ => {}
        }
        Ok(())
    }
}

/// What a client looks at.
#[derive(Default, Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type", default)]
    kind: &'a str,
    #[serde(rename = "_meta")]
    meta: Option<Meta>,
    number: Option<u64>,
    #[serde(default, deserialize_with = "length")]
    errors: usize,
}

#[derive(Deserialize)]
struct Meta {
    id: StreamId,
}

fn length<'de, D: serde::Deserializer<'de>>(errors: D) -> Result<usize, D::Error> {
    Vec::<serde::de::IgnoredAny>::deserialize(errors).map(|errors| errors.len())
}

/// All publishers.
pub(super) struct Publishers {
    pub operations: Vec<String>,
    pub api_key: String,
    pub told: Arc<Mutex<Told>>,
    pub users: usize,
    /// Between two publications of one publisher.
    pub pace: Duration,
}

impl Publishers {
    /// Publishes every `of`th number from the `first` on, until the end; what was begun is brought to its end.
    pub(super) async fn run(self: Arc<Self>, first: u64, of: u64, mut stop: Stop) {
        let (mut number, mut at) = (first, first as usize);
        let mut due = Instant::now();
        while !stop.stopping() {
            self.publish(number, &mut at).await;
            number += of;
            due += self.pace;
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = stop.wait() => {}
            }
        }
    }

    /// Publishes one order with as many attempts as it takes, by the replica that took the last one or the next that does.
    async fn publish(&self, number: u64, at: &mut usize) {
        let user_number = (number % self.users as u64) as usize;
        let body = json!({
            "channel": CHANNEL,
            "user": user(user_number),
            "msg_id": format!("order-{number}"),
            "data": { "type": "order_update", "number": number, "status": "filled" },
        });
        let body = body.to_string();
        loop {
            let url = format!("{}/api/v1/publish", self.operations[*at % self.operations.len()]);
            let (body, api_key) = (body.clone(), Some(self.api_key.as_str()));
            let answer = Call { method: "POST", url: &url, api_key, body, timeout: ANSWER_TIMEOUT }.send().await;
            if self.take(user_number, number, answer) {
                return;
            }
            *at += 1;
            sleep(PAUSE).await;
        }
    }

    /// Notes what came of an attempt. True when nothing is left to do.
    fn take(&self, user_number: usize, number: u64, answer: Result<(StatusCode, String), Failure>) -> bool {
        let mut told = self.told.lock();
        match answer.map(|(status, text)| (status.as_u16(), text)) {
            Ok((200, text)) => {
                let accepted: Accepted = serde_json::from_str(&text).unwrap_or_default();
                told.repeated += u64::from(accepted.duplicate);
                told.accepted[user_number].extend(accepted.id.map(|id| (id, number)));
                return true;
            }
            Ok((503 | 429, _)) => told.refused += 1,
            // The outcome is open, or the replica is gone.
            _ => told.unknown += 1,
        }
        false
    }
}

#[derive(Default, Deserialize)]
struct Accepted {
    id: Option<StreamId>,
    #[serde(default)]
    duplicate: bool,
}
