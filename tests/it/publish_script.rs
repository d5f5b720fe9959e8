//! The publish script as engines call it: one or several publications per call, the response to each, and what is
//! stored.

use redis::Value;

use crate::support::redis::RedisServer;

const SCRIPT: &str = include_str!("../../src/backplane/redis/scripts/publish.lua");
const GEN: &str = "tg2:{gen}";
const A: &str = "tg2:{t:a}:s";
const B: &str = "tg2:{t:b}:s";

const GENERATION: &str = "9000000000000";

/// A server with a generation.
async fn server() -> RedisServer {
    let server = RedisServer::start();
    let info: String = server.run(&["INFO", "replication"]).await;
    let identity = info.lines().find_map(|line| line.strip_prefix("master_replid:")).expect("an identity").trim();
    let fields = ["format", "2", "g", GENERATION, "identity", identity, "alloc", GENERATION];
    server.run::<()>(&[&["HSET", GEN][..], &fields].concat()).await;
    server
}

/// Calls the script; returns each response as text, an error as `!` and its code.
async fn call(server: &RedisServer, keys: &[&str], values: &[&[&str]]) -> Vec<String> {
    call_in(server, GENERATION, keys, values).await
}

async fn call_in(server: &RedisServer, generation: &str, keys: &[&str], values: &[&[&str]]) -> Vec<String> {
    let mut pipe = redis::pipe();
    pipe.cmd("EVAL").arg(SCRIPT).arg(keys.len() + 1).arg(GEN).arg(keys).arg(generation).arg(values.concat());
    let mut connection = server.connect().await;
    let answers = connection.send_packed_commands(&pipe, 0, 1).await.expect("answers");
    let [answer]: [Value; 1] = answers.try_into().expect("one answer");
    match answer {
        Value::Array(answers) => answers.iter().map(text).collect(),
        single => vec![text(&single)],
    }
}

fn text(answer: &Value) -> String {
    match answer {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::ServerError(error) => format!("!{}", error.code()),
        other => panic!("{other:?}"),
    }
}

/// The entries, without their times.
async fn stored(server: &RedisServer, stream: &str) -> Vec<String> {
    let entries: Vec<(String, Vec<String>)> = server.run(&["XRANGE", stream, "-", "+"]).await;
    let shown = |fields: Vec<String>| {
        let pairs = fields.chunks(2).filter(|pair| pair[0] != "t").map(|pair| pair.join(" "));
        pairs.collect::<Vec<_>>().join(" ")
    };
    entries.into_iter().map(|(_, fields)| shown(fields)).collect()
}

#[tokio::test]
async fn several_publications_in_a_call_are_independent() {
    let server = server().await;
    let value = |payload, channel| [payload, "100", "0", "0", channel, "1"];
    let values = [value("1", "-"), value("2", "orders"), value("3", "-"), value("4", "-")];
    let answers = call(&server, &[A, B, A, A], &values.each_ref().map(|value| &value[..])).await;
    let expected = ["9000000000001-0", "9000000000002-0", "9000000000001-1", "9000000000001-2"];
    assert_eq!(answers, expected, "each new stream has a separate epoch");
    assert_eq!(stored(&server, A).await, ["d 1 p ?", "d 3", "d 4"]);
    assert_eq!(stored(&server, B).await, ["d 2 c orders p ?"]);
    let known = ["5", "100", "9000000000002", "0", "-", "0"];
    assert_eq!(call(&server, &[B], &[&known]).await, ["9000000000002-1"]);
    assert_eq!(server.run::<i64>(&["PTTL", B]).await, -1, "streams never expire by themselves");
}

#[tokio::test]
async fn one_failure_does_not_affect_the_others_of_a_call() {
    let server = server().await;
    server.run::<()>(&["SET", B, "no stream"]).await;
    let value = &["1", "100", "0", "0", "-", "1"][..];
    assert_eq!(call(&server, &[A, B, A], &[value; 3]).await, ["9000000000001-0", "!WRONGTYPE", "9000000000001-1"]);
}

#[tokio::test]
async fn a_repeated_msg_id_is_detected_within_a_call_too() {
    let server = server().await;
    let (one, two) = ("tg2:{t:a}:i:one", "tg2:{t:a}:i:two");
    let value = |keep| ["1", keep, "0", "0", "-", "1", "60000", "digest"];
    let answers = call(&server, &[A, one, A, two, A, one], &[&value("9"), &value("0"), &value("9")]).await;
    assert_eq!(answers, ["9000000000001-0", "-", "9000000000001-0 duplicate"]);
    assert_eq!(call(&server, &[A, two], &[&value("9")]).await, ["- duplicate"]);
    let other = ["2", "9", "0", "0", "-", "1", "60000", "other"];
    let same = value("9");
    let answers = call(&server, &[A, one, A, two, A, "tg2:{t:a}:i:three"], &[&other, &same, &other]).await;
    assert_eq!(answers, ["!REUSED", "- duplicate", "9000000000001-1"], "a reused msg_id with other content");
    assert_eq!(stored(&server, A).await, ["d 1 p ?", "d 2"]);
    let left: i64 = server.run(&["PTTL", one]).await;
    assert!((50_000..=60_000).contains(&left), "{left}");
}

#[tokio::test]
async fn an_epoch_contains_the_previous_id() {
    let server = server().await;
    let publish = async |generation: &str, epoch: &str| {
        call_in(&server, generation, &[A], &[&["1", "100", epoch, "0", "-", "1"]]).await.remove(0)
    };
    assert_eq!(publish(GENERATION, "0").await, "9000000000001-0");
    assert_eq!(publish(GENERATION, "9000000000001").await, "9000000000001-1");
    let next = "9000000005000";
    server.run::<()>(&["HSET", GEN, "g", next, "alloc", next]).await;
    assert_eq!(publish(GENERATION, "9000000000001").await, "!STALE");
    assert_eq!(publish(next, "0").await, "9000000005000-0");
    assert_eq!(publish(next, next).await, "9000000005000-1");
    assert_eq!(stored(&server, A).await, ["d 1 p ?", "d 1", "d 1 p 9000000000001-1", "d 1"]);
    // An empty stream that was created for a follower.
    server.run::<String>(&["XADD", B, "MAXLEN", "0", "9000000005001-9007199254740991", "d", ""]).await;
    server.run::<()>(&["EXPIRE", B, "50"]).await;
    server.run::<()>(&["HSET", GEN, "alloc", "9000000005002"]).await;
    let answer = call_in(&server, next, &[B], &[&["1", "100", "0", "0", "-", "1"]]).await;
    assert_eq!(answer, ["9000000005002-0"]);
    assert_eq!(stored(&server, B).await, ["d 1 p 9000000005001-9007199254740991"]);
    assert_eq!(server.run::<i64>(&["PTTL", B]).await, -1);
}

#[tokio::test]
async fn nothing_is_stored_outside_the_callers_generation() {
    let server = server().await;
    let value = ["1", "100", "0", "0", "-", "1"];
    for (field, other, code) in
        [("g", "8", "!STALE"), ("identity", "abc", "!STALE"), ("format", "3", "!FORMAT"), ("alloc", "8", "!STALE")]
    {
        let before: String = server.run(&["HGET", GEN, field]).await;
        if field == "alloc" {
            server.run::<String>(&["XADD", A, "9-0", "d", "{}"]).await;
        }
        server.run::<()>(&["HSET", GEN, field, other]).await;
        assert_eq!(call(&server, &[A], &[&value]).await, [code], "{field}");
        server.run::<()>(&["HSET", GEN, field, &before]).await;
    }
    server.run::<()>(&["DEL", GEN]).await;
    assert_eq!(call(&server, &[A], &[&value]).await, ["!STALE"]);
    assert_eq!(stored(&server, A).await, ["d {}"]);
}

#[tokio::test]
async fn a_call_with_a_missing_value_stores_nothing() {
    let server = server().await;
    let (whole, short) = (["1", "100", "0", "0", "-", "1"], ["1", "100", "0", "0", "-"]);
    assert_eq!(call(&server, &[A, B], &[&whole, &short]).await, ["!ERR"]);
    assert_eq!(call(&server, &[A, "tg2:{t:a}:i:one"], &[&whole]).await, ["!ERR"]);
    assert_eq!((stored(&server, A).await.len(), stored(&server, B).await.len()), (0, 0));
}

#[tokio::test]
async fn a_later_turn_ends_earlier_ones_on_all_topics() {
    let server = server().await;
    let in_turn = async |turn: &str, key, payload| {
        let header = format!("{GENERATION} feed:a {turn}");
        call_in(&server, &header, &[key], &[&[payload, "100", "0", "0", "-", "1"]]).await
    };
    assert_eq!(in_turn("7", A, "1").await, ["9000000000001-0"]);
    assert_eq!(in_turn("7", A, "2").await, ["9000000000001-1"]);
    assert_eq!(in_turn("10", B, "3").await, ["9000000000002-0"], "numbers are compared, not their text");
    assert_eq!(in_turn("7", A, "4").await, ["!FENCED"]);
    let value = ["5", "100", "0", "0", "-", "1"];
    let header = format!("{GENERATION} feed:a 9");
    assert_eq!(
        call_in(&server, &header, &[A, B], &[&value, &value]).await,
        ["!FENCED"],
        "a call stores everything or nothing"
    );
    let header = format!("{GENERATION} feed:b 1");
    assert_eq!(call_in(&server, &header, &[B], &[&value]).await, ["9000000000002-1"], "another lease");
    assert_eq!(call(&server, &[A], &[&value]).await, ["9000000000001-2"], "a publisher without a lease");
    for wrong in [format!("{GENERATION} feed:a"), format!("{GENERATION} feed:a x"), format!("8{GENERATION} feed:a 11")]
    {
        assert_eq!(call_in(&server, &wrong, &[A], &[&value]).await, ["!STALE"], "{wrong}");
    }
    assert_eq!(stored(&server, A).await, ["d 1 p ?", "d 2", "d 5"]);
}
