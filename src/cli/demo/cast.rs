//! The clients and publishers of a demo: no more clever than docs/wire.md asks of any. A client comes back to any replica
//! with its last id; a publisher sends again, with the same `msg_id`, until it is accepted.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{json, value::to_raw_value};
use tickgate_client::{Client, Error, Event, Publication, Published, State};
use tokio::time::{Instant, sleep};

use super::tally::{Diary, Told};
use crate::tasks::Stop;

pub(super) const CHANNEL: &str = "orders";
/// Before a publisher's next attempt.
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
    pub client: Client,
    /// The replica behind each of the client's endpoints.
    pub replicas: Vec<usize>,
    pub diary: SharedDiary,
}

impl Follower {
    /// Follows until the end, or until it may not come back.
    pub(super) async fn run(mut self, mut stop: Stop) {
        let mut replica = None;
        loop {
            let event = tokio::select! {
                event = self.client.next() => event,
                () = stop.wait() => return,
            };
            let mut diary = self.diary.lock();
            match event {
                Some(Event::Message(message)) => {
                    let order: Order = serde_json::from_str(&message.text).unwrap_or_default();
                    let id = message.meta.id.and_then(|id| id.parse().ok());
                    diary.heard.extend(id.map(|id| (id, order.number)));
                }
                Some(Event::Gap(_)) => diary.gaps += 1,
                Some(Event::Connected { endpoint, .. }) => replica = Some(self.replicas[endpoint]),
                Some(Event::Subscribed { .. }) => {
                    diary.replica = replica;
                    diary.connections += 1;
                }
                Some(Event::State(State::Waiting { .. })) => diary.replica = None,
                Some(_) => {}
                None => {
                    diary.replica = None;
                    return;
                }
            }
        }
    }
}

/// What a client looks at in an order.
#[derive(Default, Deserialize)]
struct Order {
    number: u64,
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
        let (user, msg_id) = (user(user_number), format!("order-{number}"));
        let data = json!({ "type": "order_update", "number": number, "status": "filled" });
        let data = to_raw_value(&data).expect("a JSON value is JSON");
        let publication = Publication { channel: CHANNEL, user: Some(&user), data: &data, msg_id: Some(&msg_id) };
        loop {
            let operations = &self.operations[*at % self.operations.len()];
            let outcome = publication.publish_within(ANSWER_TIMEOUT, operations, Some(&self.api_key)).await;
            if self.take(user_number, number, outcome) {
                return;
            }
            *at += 1;
            sleep(PAUSE).await;
        }
    }

    /// Notes what came of an attempt. True when nothing is left to do.
    fn take(&self, user_number: usize, number: u64, outcome: Result<Published, Error>) -> bool {
        let mut told = self.told.lock();
        match outcome {
            Ok(published) => {
                told.repeated += u64::from(published.duplicate);
                told.accepted[user_number].extend(published.id.map(|id| (id, number)));
                return true;
            }
            Err(Error::Refused(refusal)) if matches!(refusal.status.as_u16(), 429 | 503) => told.refused += 1,
            // The outcome is open, or the replica is gone.
            _ => told.unknown += 1,
        }
        false
    }
}
