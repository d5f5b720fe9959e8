//! Followed topics and their history.

use serde_json::{Value, json};
use tickgate_wire::model::{Topic, TopicRule, TopicRules, UserId};

use super::ApiReplica;

async fn publish(replica: &ApiReplica, channel: &str, user: Option<&str>, n: usize) -> Value {
    let user = user.map_or_else(String::new, |user| format!(r#""user":"{user}","#));
    let answer =
        replica.post("/api/v1/publish", &format!(r#"{{"channel":"{channel}",{user}"data":{{"n":{n}}}}}"#)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["id"].clone()
}

fn numbers(history: &Value) -> Vec<u64> {
    history["messages"].as_array().unwrap().iter().map(|message| message["data"]["n"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn followed_topics_are_listed_with_their_details() {
    let replica = ApiReplica::new();
    let alice = UserId::new("alice").unwrap();
    *replica.counted.topics.lock() =
        vec![(Topic::public("ticker:BTCUSDT").unwrap(), 7), (Topic::user_stream(&alice), 1)];
    let listed = replica.ops_get("/api/v1/topics").await.json();
    assert_eq!(listed["total"], 2);
    let ticker = json!({ "topic": "ticker:BTCUSDT", "class": "state", "retained": true, "subscribers": 7 });
    assert_eq!(listed["topics"][0], ticker);
    assert_eq!(listed["topics"][1]["user"], "alice");
    let one = replica.ops_get("/api/v1/topics?limit=1").await.json();
    assert_eq!((one["topics"].as_array().unwrap().len(), &one["total"]), (1, &json!(2)));
}

#[tokio::test]
async fn history_is_read_in_pages_from_a_cursor() {
    let replica = ApiReplica::new();
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(publish(&replica, "logs", None, n).await);
    }
    let newest = replica.ops_get("/api/v1/topics/logs/history?last=2").await.json();
    assert_eq!((numbers(&newest), &newest["cursor"]), (vec![3, 4], &ids[4]));

    let path = |cursor: &Value| format!("/api/v1/topics/logs/history?since={}&limit=2", cursor.as_str().unwrap());
    let first = replica.ops_get(&path(&ids[0])).await.json();
    assert_eq!((numbers(&first), &first["more"], &first["complete"]), (vec![1, 2], &json!(true), &json!(true)));
    let second = replica.ops_get(&path(&first["cursor"])).await.json();
    assert_eq!((numbers(&second), &second["more"]), (vec![3, 4], &json!(false)));
    let end = replica.ops_get(&path(&second["cursor"])).await.json();
    assert_eq!((numbers(&end), &end["complete"], &end["cursor"]), (vec![], &json!(true), &ids[4]));
}

#[tokio::test]
async fn a_cursor_that_never_existed_gets_an_incomplete_history() {
    let replica = ApiReplica::new();
    publish(&replica, "logs", None, 1).await;
    let history = replica.ops_get("/api/v1/topics/logs/history?since=99999999999999-7").await.json();
    assert_eq!(history["complete"], false);
}

#[tokio::test]
async fn a_private_channel_is_filtered_from_its_users_stream() {
    let replica = ApiReplica::new();
    publish(&replica, "orders", Some("alice"), 1).await;
    let alert = publish(&replica, "risk_alerts", Some("alice"), 2).await;
    publish(&replica, "orders", Some("bob"), 3).await;
    let orders = replica.ops_get("/api/v1/topics/orders/history?user=alice").await.json();
    assert_eq!(numbers(&orders), [1]);
    assert_eq!(orders["messages"][0]["channel"], "orders");
    assert_eq!(orders["cursor"], alert, "the cursor passes skipped entries");

    publish(&replica, "portfolio", Some("alice"), 4).await;
    let portfolio = replica.ops_get("/api/v1/topics/portfolio/history?user=alice").await.json();
    assert_eq!(numbers(&portfolio), [4], "a state channel has a separate topic");
    let bobs = replica.ops_get("/api/v1/topics/portfolio/history?user=bob").await.json();
    assert_eq!(numbers(&bobs), Vec::<u64>::new());
}

#[tokio::test]
async fn a_rule_contains_everything_that_an_engine_needs_to_publish() {
    let replica = ApiReplica::new();
    let rule = async |path: &str| replica.ops_get(&format!("/api/v1/topics/{path}")).await.json();
    assert_eq!(
        rule("ticker:BRK%20B").await,
        json!({"topic": "ticker:BRK B", "stored_as": "ticker:BRK B", "class": "state", "retain_max": 1, "retain_ttl": 86_400,
               "wait_replicas": 0, "wait_aof": false, "dedupe_ttl": 300})
    );
    // Reliable private channels have the retention of the user's stream.
    assert_eq!(
        rule("orders?user=alice").await,
        json!({"topic": "orders", "user": "alice", "stored_as": "@@alice", "stored_channel": "orders", "class": "reliable",
               "retain_max": 1_000, "retain_ttl": 86_400, "wait_replicas": 0, "wait_aof": false, "dedupe_ttl": 300})
    );
    let portfolio = rule("portfolio?user=alice").await;
    assert_eq!((&portfolio["stored_as"], &portfolio["retain_max"]), (&json!("@portfolio@alice"), &json!(1)));
    assert_eq!(rule("ingest_events").await["retain_max"], 100_000);
    for path in ["a%2Cb", "orders?user=", "orders?users=alice"] {
        replica.ops_get(&format!("/api/v1/topics/{path}")).await.problem(400, "invalid_message");
    }
}

#[tokio::test]
async fn invalid_queries_are_refused() {
    let replica = ApiReplica::new();
    let wrong = [
        "/api/v1/topics/logs/history?since=1-1&last=3",
        "/api/v1/topics/logs/history?since=-1",
        "/api/v1/topics/logs/history?since=now",
        "/api/v1/topics/logs/history?last=-1",
        "/api/v1/topics/logs/history?lst=3",
        "/api/v1/topics/logs*/history",
        "/api/v1/topics/%40%40alice/history",
        "/api/v1/topics/orders/history?user=",
    ];
    for path in wrong {
        replica.ops_get(path).await.problem(400, "invalid_message");
    }
    replica.ops_get("/api/v1/topics/x/history?since=99999999999999999999-0").await.problem(400, "invalid_message");
}

#[tokio::test]
async fn a_slash_in_a_name_is_encoded_and_topics_without_retention_have_no_history() {
    let replica = ApiReplica::with(|config| {
        let rules = &config.topics;
        let unretained = TopicRule { retain_max: 0, ..(**rules.of_name("x")).clone() };
        config.topics = TopicRules::new(Vec::new(), (**rules.user_stream()).clone(), unretained).into();
    });
    replica.ops_get("/api/v1/topics/nested%2Fname:x/history").await.problem(404, "not_found");
    let id = publish(&replica, "nested/name:x", None, 1).await;
    assert_eq!(id, Value::Null, "no id without retention");

    let replica = ApiReplica::new();
    publish(&replica, "nested/name:x", None, 1).await;
    let history = replica.ops_get("/api/v1/topics/nested%2Fname:x/history").await.json();
    assert_eq!((&history["topic"], numbers(&history)), (&json!("nested/name:x"), vec![1]));
}
