//! The client of `crates/client` against the real gateway: the scenarios of the suite.

use std::time::Duration;

use serde_json::{Value, json, value::to_raw_value};
use tickgate_client::{
    Builder, Channel, Client, ClientState, Event, Handle, PublicationRequest, ReceivedMessage, RequestError,
};
use tokio::{task::AbortHandle, time::timeout};

use crate::support::{
    PATIENCE,
    proxy::{Proxy, Weather},
    redis::RedisServer,
    replica::{TestReplica, TokenBuilder, token},
};

/// A client whose driver runs in a task.
struct RunningClient {
    client: Client,
    handle: Handle,
    driver: AbortHandle,
}

impl Drop for RunningClient {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl RunningClient {
    fn start(builder: Builder) -> Self {
        let (client, driver) = builder.build();
        #[expect(clippy::disallowed_methods, reason = "a task of the test's own")]
        let driver = tokio::spawn(driver.run()).abort_handle();
        Self { handle: client.handle(), client, driver }
    }

    /// Waits for an event in which `find` finds something.
    async fn until<T>(&mut self, mut find: impl FnMut(&Event) -> Option<T>) -> T {
        let mut seen = Vec::new();
        let found = async {
            loop {
                let event = self.client.next().await.unwrap_or_else(|| panic!("the client has ended: {seen:?}"));
                if let Some(found) = find(&event) {
                    return found;
                }
                seen.push(event);
            }
        };
        timeout(PATIENCE, found).await.expect("what was waited for")
    }

    async fn live(&mut self) {
        self.until(|event| matches!(event, Event::State(ClientState::Live)).then_some(())).await;
    }

    /// Expects this message as the next one.
    async fn expect(&mut self, data: &Value) -> ReceivedMessage {
        let message = self.until(|event| match event {
            Event::Message(message) => Some(message.clone()),
            Event::Gap(gap) => panic!("a gap: {gap:?}"),
            _ => None,
        });
        let message = message.await;
        assert_eq!(serde_json::from_str::<Value>(&message.payload()).unwrap(), *data);
        message
    }
}

fn url(replica: &TestReplica) -> String {
    format!("ws://{}/ws/trading", replica.address())
}

fn alice(replica: &TestReplica) -> Builder {
    Builder::new(url(replica)).token(token("alice"))
}

fn order(number: u32) -> Value {
    json!({ "type": "order_update", "order_id": number.to_string() })
}

#[tokio::test]
async fn it_moves_from_a_killed_replica_to_another_one_without_a_loss() {
    let server = RedisServer::start();
    let (one, other) = (TestReplica::on(&server).await, TestReplica::on(&server).await);
    let builder = alice(&one).replica(url(&other)).channels(["orders", "risk_alerts", "ticker:BTCUSDT"]);
    let mut running = RunningClient::start(builder);
    running.live().await;
    one.publish_to("alice", "orders", order(1)).await;
    running.expect(&order(1)).await;
    one.kill();
    for number in 2..=50 {
        other.publish_to("alice", "orders", order(number)).await;
    }
    for number in 2..=50 {
        running.expect(&order(number)).await;
    }
    other.publish_to("alice", "risk_alerts", order(51)).await;
    running.expect(&order(51)).await;
}

/// An invalid name is refused separately; names of real venues are valid.
#[tokio::test]
async fn a_channel_with_an_invalid_name_does_not_affect_the_others() {
    let replica = TestReplica::alone().await;
    let channels = ["ticker:BRK B", "ticker:a,b", "ticker:ES=F", "ticker:비트코인"];
    let mut running = RunningClient::start(alice(&replica).channels(channels));
    let refused = running.until(|event| match event {
        Event::Refused { channel, error } => Some((channel.to_string(), error.code)),
        _ => None,
    });
    assert_eq!(refused.await, ("ticker:a,b".to_owned(), 4004));
    running.live().await;
    for channel in channels.into_iter().filter(|channel| !channel.contains(',')) {
        replica.publish(channel, json!({"of": channel})).await;
        assert_eq!(&*running.expect(&json!({"of": channel})).await.meta.channel, channel);
    }
}

#[tokio::test]
async fn the_first_message_during_its_absence_is_not_lost() {
    let server = RedisServer::start();
    let (one, other) = (TestReplica::on(&server).await, TestReplica::on(&server).await);
    let door = Proxy::start(one.address().port()).await;
    let mut running = RunningClient::start(
        Builder::new(format!("ws://{}/ws/trading", door.address)).token(token("alice")).channel("orders"),
    );
    running.live().await;
    door.set(Weather::Refuse);
    one.kill();
    other.publish_to("alice", "orders", order(1)).await;
    door.retarget(other.address().port());
    door.set(Weather::Pass { delay: Duration::ZERO });
    assert!(running.expect(&order(1)).await.meta.replayed);
}

#[tokio::test]
async fn a_drain_moves_it_after_the_requested_delay() {
    let server = RedisServer::start();
    let (mut one, other) = (TestReplica::on(&server).await, TestReplica::on(&server).await);
    let mut running = RunningClient::start(alice(&one).replica(url(&other)).channel("orders"));
    running.live().await;
    one.drain();
    let code = running.until(|event| match event {
        Event::State(ClientState::Waiting { error, .. }) => Some(error.code()),
        _ => None,
    });
    assert_eq!(code.await, Some(1012));
    running.live().await;
    other.publish_to("alice", "orders", order(1)).await;
    running.expect(&order(1)).await;
    one.ended().await;
}

#[tokio::test]
async fn its_cursors_continue_where_another_one_ended() {
    let replica = TestReplica::alone().await;
    let mut running = RunningClient::start(alice(&replica).channels(["orders", "ticker:BTCUSDT"]));
    running.live().await;
    for number in 1..=3 {
        replica.publish_to("alice", "orders", order(number)).await;
        running.expect(&order(number)).await;
    }
    // The last one counts as handled when the next event is requested.
    let handled = timeout(Duration::ZERO, running.client.next()).await;
    assert!(handled.is_err(), "{handled:?}");
    let cursors = running.client.cursors().clone();
    running.handle.stop().await;
    running.until(|event| matches!(event, Event::State(ClientState::Closed { error: None })).then_some(())).await;
    replica.publish_to("alice", "orders", order(4)).await;
    let channels = cursors.into_iter().map(|(channel, cursor)| Channel::new(channel).since(cursor));
    let mut running = RunningClient::start(alice(&replica).channels(channels));
    assert!(running.expect(&order(4)).await.meta.replayed);
}

#[tokio::test]
async fn it_publishes_once_and_receives_the_reason_of_a_refusal() {
    let replica = TestReplica::alone().await;
    let connector = TokenBuilder::of("connector").publish(&["orders"]).sign();
    let mut publisher = RunningClient::start(Builder::new(url(&replica)).token(connector));
    let mut running = RunningClient::start(alice(&replica).channel("orders"));
    running.live().await;
    publisher.live().await;
    let data = to_raw_value(&order(1)).unwrap();
    let mut publication =
        PublicationRequest { channel: "orders", user: Some("alice"), data: &data, msg_id: Some("fill-1") };
    let first = publisher.handle.publish(&publication, PATIENCE).await.unwrap();
    let again = publisher.handle.publish(&publication, PATIENCE).await.unwrap();
    assert_eq!((first.duplicate, again.duplicate, &first.id), (false, true, &again.id));
    assert_eq!(running.expect(&order(1)).await.meta.id, first.id);
    publication.channel = "risk_alerts";
    let refused = publisher.handle.publish(&publication, PATIENCE).await.unwrap_err();
    assert!(matches!(&refused, RequestError::Refused(error) if error.code == 4502), "{refused:?}");
    let history = to_raw_value(&json!({ "channel": "orders", "last": 5 })).unwrap();
    let history = running.handle.request("history", &history, PATIENCE).await.unwrap();
    assert!(history.contains(r#""order_id":"1""#), "{history}");
}

#[tokio::test]
async fn refusals_have_a_reason_and_end_what_cannot_succeed() {
    let replica = TestReplica::alone().await;
    let mut running = RunningClient::start(alice(&replica).channels(["orders", "payroll"]));
    let refused = running.until(|event| match event {
        Event::Refused { channel, error } => Some((channel.clone(), error.code)),
        _ => None,
    });
    assert_eq!(refused.await.0, "payroll");
    running.live().await;
    let mut stranger = RunningClient::start(Builder::new(url(&replica)).token("not.a.token").channel("orders"));
    let code = stranger.until(|event| match event {
        Event::State(ClientState::Closed { error: Some(error) }) => Some(error.code()),
        _ => None,
    });
    assert_eq!(code.await, Some(4001), "after the same token was refused twice");
}

#[tokio::test]
async fn an_expiring_token_is_renewed_in_place() {
    let replica = TestReplica::alone().await;
    let source = || async { Ok::<_, std::io::Error>(TokenBuilder::of("alice").expires_in(3).sign()) };
    let builder = Builder::new(url(&replica)).token_source(source).channel("orders");
    let mut running = RunningClient::start(builder);
    running.live().await;
    let whole = Duration::from_secs(5);
    let lost = running.until(|event| matches!(event, Event::State(ClientState::Waiting { .. })).then_some(()));
    assert!(timeout(whole, lost).await.is_err(), "it outlives its first token on one connection");
    replica.publish_to("alice", "orders", order(1)).await;
    running.expect(&order(1)).await;
}

#[tokio::test]
async fn a_late_token_opens_the_same_connection() {
    let replica = TestReplica::alone().await;
    let mut running = RunningClient::start(alice(&replica).late_token().channel("orders"));
    let user = running.until(|event| match event {
        Event::Connected { user, .. } => Some(user.clone()),
        _ => None,
    });
    assert_eq!(user.await.as_deref(), Some("alice"));
    running.live().await;
    replica.publish_to("alice", "orders", order(1)).await;
    running.expect(&order(1)).await;
}
