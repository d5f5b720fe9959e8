//! The clients and publishers of a demo. They do no more than docs/wire.md requires: a client reconnects to any replica
//! with its last id; a publisher retries with the same `msg_id` until the publication is accepted.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{json, value::to_raw_value};
use tickgate_client::{Client, ClientState, Error, Event, PublicationReceipt, PublicationRequest};
use tokio::time::{Instant, sleep};

use super::tally::{ClientRecord, PublishResults};
use crate::tasks::Stop;

pub(super) const CHANNEL: &str = "orders";
/// Delay before a publisher's next attempt.
const PAUSE: Duration = Duration::from_millis(20);
/// Timeout of one attempt of a publisher.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) type SharedRecord = Arc<Mutex<ClientRecord>>;

/// The user's name for a number.
pub(super) fn user(number: usize) -> String {
    format!("trader-{}", number + 1)
}

/// One client.
pub(super) struct DemoClient {
    pub client: Client,
    /// The replica at each of the client's endpoints.
    pub replicas: Vec<usize>,
    pub record: SharedRecord,
}

impl DemoClient {
    /// Follows the channel until the end, or until it must not reconnect.
    pub(super) async fn run(mut self, mut stop: Stop) {
        let mut replica = None;
        loop {
            let event = tokio::select! {
                event = self.client.next() => event,
                () = stop.wait() => return,
            };
            let mut record = self.record.lock();
            match event {
                Some(Event::Message(message)) => {
                    let order: ExpectedOrder = serde_json::from_str(&message.text).unwrap_or_default();
                    let id = message.meta.id.and_then(|id| id.parse().ok());
                    record.received.extend(id.map(|id| (id, order.number)));
                }
                Some(Event::Gap(_)) => record.gaps += 1,
                Some(Event::Connected { endpoint, .. }) => replica = Some(self.replicas[endpoint]),
                Some(Event::Subscribed { .. }) => {
                    record.replica = replica;
                    record.connections += 1;
                }
                Some(Event::State(ClientState::Waiting { .. })) => record.replica = None,
                Some(_) => {}
                None => {
                    record.replica = None;
                    return;
                }
            }
        }
    }
}

/// The fields of an order that a client checks.
#[derive(Default, Deserialize)]
struct ExpectedOrder {
    number: u64,
}

/// All publishers.
pub(super) struct Publishers {
    pub operations: Vec<String>,
    pub api_key: String,
    pub results: Arc<Mutex<PublishResults>>,
    pub users: usize,
    /// Time between two publications of one publisher.
    pub pace: Duration,
}

impl Publishers {
    /// Publishes every `of`th number starting at `first`, until the end; a publication that was started is completed.
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

    /// Publishes one order with as many attempts as it takes, through the replica that accepted the last one, or the
    /// next one that responds.
    async fn publish(&self, number: u64, at: &mut usize) {
        let user_number = (number % self.users as u64) as usize;
        let (user, msg_id) = (user(user_number), format!("order-{number}"));
        let data = json!({ "type": "order_update", "number": number, "status": "filled" });
        let data = to_raw_value(&data).expect("a JSON value is JSON");
        let publication =
            PublicationRequest { channel: CHANNEL, user: Some(&user), data: &data, msg_id: Some(&msg_id) };
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

    /// Records the outcome of an attempt. True when the publication is complete.
    fn take(&self, user_number: usize, number: u64, outcome: Result<PublicationReceipt, Error>) -> bool {
        let mut results = self.results.lock();
        match outcome {
            Ok(published) => {
                results.repeated += u64::from(published.duplicate);
                results.accepted[user_number].extend(published.id.map(|id| (id, number)));
                return true;
            }
            Err(Error::Refused(refusal)) if matches!(refusal.status.as_u16(), 429 | 503) => results.refused += 1,
            // The outcome is unknown, or the replica has stopped.
            _ => results.unknown += 1,
        }
        false
    }
}
