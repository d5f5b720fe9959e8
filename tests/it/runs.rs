//! `/ws/backtest/{run_id}` and `/ws/forward/{run_id}`: everything of one run, and commands to its engine.

use serde_json::{Value, json};

use crate::support::{
    client::TestClient,
    redis::RedisServer,
    replica::{TestReplica, TokenBuilder, token},
};

fn candle(number: u32) -> Value {
    json!({"type": "candle", "data": {"number": number, "close": "50000.00"}})
}

#[tokio::test]
async fn every_tab_receives_everything_of_its_run_and_nothing_of_others() {
    let replica = TestReplica::alone().await;
    let mut tabs = vec![replica.run("/ws/backtest/run-1").await, replica.run("/ws/backtest/run-1").await];
    let mut other = replica.run("/ws/backtest/run-2").await;
    for number in 1..=5 {
        replica.publish("run:run-1", candle(number)).await;
    }
    replica.publish("run:run-2", candle(99)).await;
    for tab in &mut tabs {
        for number in 1..=5 {
            assert_eq!(tab.expect(candle(number)).await["channel"], "events");
        }
        tab.expect_nothing().await;
    }
    other.expect(candle(99)).await;
}

#[tokio::test]
async fn a_forward_test_is_a_run_like_any_other() {
    let replica = TestReplica::alone().await;
    let mut tab = replica.run("/ws/forward/run-7").await;
    let countdown = json!({"type": "countdown_update", "data": {"seconds_remaining": 30}});
    replica.publish("run:run-7", countdown.clone()).await;
    tab.expect(countdown).await;
}

#[tokio::test]
async fn a_tab_that_reloads_misses_nothing() {
    let replica = TestReplica::alone().await;
    let mut tab = replica.run("/ws/backtest/run-1").await;
    replica.publish("run:run-1", candle(1)).await;
    let cursor = tab.expect(candle(1)).await["id"].clone();
    tab.vanish();
    replica.publish("run:run-1", candle(2)).await;
    replica.publish("run:run-1", candle(3)).await;
    let mut tab = replica.run("/ws/backtest/run-1").await;
    tab.ask(json!({"type": "unsubscribe", "channels": ["events"]})).await;
    tab.subscribe_since(&["events"], &cursor).await;
    tab.expect(candle(2)).await;
    tab.expect(candle(3)).await;
    assert_eq!(tab.caught_up().await["complete"], true);
}

#[tokio::test]
async fn a_cursor_is_accepted_without_unsubscribing_first() {
    let replica = TestReplica::alone().await;
    let mut tab = replica.run("/ws/backtest/run-1").await;
    replica.publish("run:run-1", candle(1)).await;
    let cursor = tab.expect(candle(1)).await["id"].clone();
    replica.publish("run:run-1", candle(2)).await;
    tab.expect(candle(2)).await;
    tab.subscribe_since(&["events"], &cursor).await;
    assert_eq!(tab.expect(candle(2)).await["replayed"], true);
    replica.publish("run:run-1", candle(3)).await;
    tab.expect(candle(3)).await;
    tab.expect_nothing().await;
}

#[tokio::test]
async fn commands_are_stored_for_an_engine_that_reads_them_with_a_consumer_group() {
    let server = RedisServer::start();
    let replica = TestReplica::on(&server).await;
    let right = TokenBuilder::of("alice").commands().sign();
    let mut tab = replica.connect("/ws/backtest/run-1").token(&right).open().await;
    tab.greeted().await;
    tab.expect_type("subscribed").await;
    for command in ["pause", "resume", "stop"] {
        let answer = tab.ask(json!({"type": "command", "command": command, "args": {"reason": "lunch"}})).await;
        assert_eq!(answer["type"], "command_accepted", "{answer}");
    }
    let mut engine = server.connect().await;
    let stream = "tg2:{t:commands}:s";
    let mut create = redis::cmd("XGROUP");
    create.arg("CREATE").arg(stream).arg("engine").arg("0");
    create.query_async::<()>(&mut engine).await.expect("a consumer group");
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP").arg("engine").arg("engine-1").arg("COUNT").arg(10).arg("STREAMS").arg(stream).arg(">");
    let reply: redis::streams::StreamReadReply = read.query_async(&mut engine).await.expect("the commands");
    let commands: Vec<Value> = reply.keys[0]
        .ids
        .iter()
        .map(|entry| {
            let payload: String = redis::from_redis_value(entry.map["d"].clone()).expect("a payload");
            serde_json::from_str(&payload).expect("json")
        })
        .collect();
    assert_eq!(commands.iter().map(|c| &c["command"]).collect::<Vec<_>>(), ["pause", "resume", "stop"]);
    assert_eq!(commands[0]["args"], json!({"reason": "lunch"}));
    assert_eq!((&commands[0]["run_id"], &commands[0]["user"]), (&json!("run-1"), &json!("alice")));
}

#[tokio::test]
async fn commands_require_the_right() {
    let replica = TestReplica::alone_with("[auth]\nanonymous = \"always\"").await;
    let mut tab = replica.connect("/ws/backtest/run-1").token(&token("alice")).open().await;
    tab.greeted().await;
    tab.expect_type("subscribed").await;
    let pause = json!({"type": "command", "command": "pause"});
    assert_eq!(tab.ask(pause.clone()).await["code"], 4502);
    let mut trader = replica.trading("alice").await;
    assert_eq!(trader.ask(pause).await["code"], 4502, "and an endpoint that takes them");
    let long = json!({"type": "command", "command": "x".repeat(65)});
    assert_eq!(tab.ask(long).await["code"], 4004);
}

#[tokio::test]
async fn a_run_requires_a_valid_name() {
    let replica = TestReplica::alone().await;
    replica.connect("/ws/backtest/").expect_refused(404).await;
    replica.connect("/ws/backtest/%7Bx%7D").expect_refused(404).await;
}

/// Clients encode what they put into a URL: it is decoded once, and then checked.
#[tokio::test]
async fn the_name_of_a_run_is_decoded_once() {
    let replica = TestReplica::alone().await;
    replica.run("/ws/backtest/run%2D1").await;
    for path in ["/ws/backtest/run%252D1", "/ws/backtest/run%", "/ws/backtest/a%0Ab"] {
        replica.connect(path).token(&token("alice")).expect_refused(404).await;
    }
}

const PRODUCTION: &str = "[server]\nmode = \"production\"\n";

/// The reply for the channels that a run's endpoint subscribes automatically.
async fn watching(replica: &TestReplica, path: &str, token: TokenBuilder<'_>) -> (TestClient, Value) {
    let mut tab = replica.connect(path).token(&token.sign()).open().await;
    tab.greeted().await;
    let subscribed = tab.expect_type("subscribed").await;
    (tab, subscribed)
}

#[tokio::test]
async fn a_token_is_limited_to_the_runs_that_it_names() {
    let replica = TestReplica::alone_with(PRODUCTION).await;
    let alice = || TokenBuilder::of("alice").commands().runs(&["bt-alice-*", "shared"]);
    let pause = json!({"type": "command", "command": "pause"});
    for path in ["/ws/backtest/bt-alice-1", "/ws/forward/shared"] {
        let (mut tab, subscribed) = watching(&replica, path, alice()).await;
        assert_eq!((&subscribed["channels"][0]["channel"], &subscribed["errors"]), (&json!("events"), &json!([])));
        assert_eq!(tab.ask(pause.clone()).await["type"], "command_accepted");
    }
    let without = || TokenBuilder::of("bob").commands();
    let foreign = [
        ("/ws/backtest/bt-bob-1", alice()),
        ("/ws/backtest/bt-bob-1", without()),
        ("/ws/backtest/bt-bob-1", TokenBuilder::of("bob").commands().runs(&[])),
    ];
    for (path, token) in foreign {
        let (mut tab, subscribed) = watching(&replica, path, token).await;
        assert_eq!(subscribed["channels"], json!([]), "{subscribed}");
        let error = &subscribed["errors"][0];
        assert_eq!((&error["channel"], &error["code"]), (&json!("events"), &json!(4502)), "{subscribed}");
        assert!(error["message"].as_str().unwrap().contains("`runs`"), "{error}");
        let asked =
            tab.ask(json!({"type": "subscribe", "channels": [{"channel": "events", "since": "earliest"}]})).await;
        assert_eq!(asked["errors"][0]["code"], 4502, "{asked}");
        for request in
            [json!({"type": "history", "channel": "events"}), json!({"type": "presence", "channel": "events"})]
        {
            assert_eq!(tab.ask(request.clone()).await["code"], 4502, "{request}");
        }
        assert_eq!(tab.ask(pause.clone()).await["code"], 4502);
        replica.publish("run:bt-bob-1", candle(1)).await;
        tab.expect_nothing().await;
    }
    let history = replica.api_get("/api/v1/topics/commands/history?last=10").await.json();
    let runs: Vec<_> = history["messages"].as_array().unwrap().iter().map(|one| &one["data"]["run_id"]).collect();
    assert_eq!(runs, ["bt-alice-1", "shared"], "what was refused was not stored");
}

#[tokio::test]
async fn without_the_claim_a_token_allows_every_run_only_in_development() {
    let replica = TestReplica::alone().await;
    let pause = json!({"type": "command", "command": "pause"});
    let (mut tab, subscribed) = watching(&replica, "/ws/backtest/any", TokenBuilder::of("alice").commands()).await;
    assert_eq!(subscribed["errors"], json!([]));
    assert_eq!(tab.ask(pause.clone()).await["type"], "command_accepted");
    let narrow = TokenBuilder::of("alice").commands().runs(&["one"]);
    let (mut tab, subscribed) = watching(&replica, "/ws/backtest/two", narrow).await;
    assert_eq!(subscribed["errors"][0]["code"], 4502);
    assert_eq!(tab.ask(pause).await["code"], 4502);
}

#[tokio::test]
async fn where_anyone_may_watch_a_token_needs_the_claim_only_for_commands() {
    let replica = TestReplica::alone_with(&format!("{PRODUCTION}[auth]\nanonymous = \"always\"")).await;
    replica.run("/ws/backtest/bt-1").await;
    let pause = json!({"type": "command", "command": "pause"});
    let (mut tab, subscribed) = watching(&replica, "/ws/backtest/bt-1", TokenBuilder::of("alice").commands()).await;
    assert_eq!(subscribed["errors"], json!([]));
    assert_eq!(tab.ask(pause.clone()).await["code"], 4502);
    let named = TokenBuilder::of("alice").commands().runs(&["bt-*"]);
    let (mut tab, _) = watching(&replica, "/ws/backtest/bt-1", named).await;
    assert_eq!(tab.ask(pause.clone()).await["type"], "command_accepted");
    let narrow = TokenBuilder::of("alice").runs(&["bt-*"]);
    let (mut tab, subscribed) = watching(&replica, "/ws/backtest/live", narrow).await;
    assert_eq!(subscribed["errors"][0]["code"], 4502, "a claim that is there counts");
    assert_eq!(tab.ask(pause).await["code"], 4502);
}

#[tokio::test]
async fn a_refreshed_token_without_the_run_ends_its_events() {
    let replica = TestReplica::alone_with(PRODUCTION).await;
    let (mut tab, _) = watching(&replica, "/ws/backtest/bt-1", TokenBuilder::of("alice").runs(&["bt-1"])).await;
    tab.send(json!({"type": "auth", "id": 1, "token": TokenBuilder::of("alice").runs(&["bt-2"]).sign()})).await;
    tab.expect_type("authenticated").await;
    let ended = tab.expect_type("unsubscribed").await;
    assert_eq!((&ended["channels"], &ended["code"]), (&json!(["events"]), &json!(4502)), "{ended}");
    replica.publish("run:bt-1", candle(1)).await;
    tab.expect_nothing().await;
}

/// The same for a custom endpoint with a path parameter.
#[tokio::test]
async fn the_claim_applies_to_every_path_with_a_parameter() {
    let settings = r#"
        [server]
        mode = "production"

        [[profiles]]
        name = "desk"
        path = "/ws/desk/{desk}"
        token = "required"
        channels = [{ name = "blotter", topic = "desk:{desk}", on_connect = true }, { name = "notices" }]
    "#;
    let replica = TestReplica::alone_with(settings).await;
    let (_, subscribed) = watching(&replica, "/ws/desk/rates", TokenBuilder::of("alice").runs(&["rates"])).await;
    assert_eq!(subscribed["errors"], json!([]));
    let (mut trader, subscribed) = watching(&replica, "/ws/desk/fx", TokenBuilder::of("alice").runs(&["rates"])).await;
    assert_eq!(subscribed["errors"][0]["code"], 4502);
    trader.subscribe(&["notices"]).await;
}
