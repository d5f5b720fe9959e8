//! The publish script itself, as engines call it: one publication or several in a call, what each answer says, what is
//! stored then.

use redis::Value;

use crate::support::redis::RedisServer;

const SCRIPT: &str = include_str!("../../src/backplane/redis/scripts/publish.lua");
const A: &str = "tg1:{t:a}:s";
const B: &str = "tg1:{t:b}:s";

/// Far above the clock: an epoch that the script takes over as it is.
const EPOCH: &str = "9000000000000";

/// Calls the script; each answer as text, an error as `!` and its code.
async fn call(server: &RedisServer, keys: &[&str], values: &[&[&str]]) -> Vec<String> {
    let mut pipe = redis::pipe();
    pipe.cmd("EVAL").arg(SCRIPT).arg(keys.len()).arg(keys).arg(values.concat());
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

async fn stored(server: &RedisServer, stream: &str) -> Vec<String> {
    let entries: Vec<(String, Vec<String>)> = server.run(&["XRANGE", stream, "-", "+"]).await;
    entries.into_iter().map(|(_, fields)| fields.join(" ")).collect()
}

#[tokio::test]
async fn several_in_a_call_are_each_as_if_they_were_alone() {
    let server = RedisServer::start();
    let value = |payload, channel| [payload, "100", EPOCH, "0", channel, "-50"];
    let values = [value("1", "-"), value("2", "orders"), value("3", "-"), value("4", "-")];
    let answers = call(&server, &[A, B, A, A], &values.each_ref().map(|value| &value[..])).await;
    let expected = ["9000000000001-0", "9000000000001-0", "9000000000001-1", "9000000000001-2"];
    assert_eq!(answers, expected, "an epoch begins above the one that was believed");
    assert_eq!(stored(&server, A).await, ["d 1", "d 3", "d 4"]);
    assert_eq!(stored(&server, B).await, ["d 2 c orders"]);
    for stream in [A, B] {
        let left: i64 = server.run(&["TTL", stream]).await;
        assert!((40..=50).contains(&left), "{left}");
    }
    // Alone it needs no more than the first three values.
    assert_eq!(call(&server, &[B], &[&["5", "100", EPOCH]]).await, ["9000000000001-1"]);
}

#[tokio::test]
async fn one_that_fails_takes_nothing_from_its_neighbours() {
    let server = RedisServer::start();
    server.run::<()>(&["SET", B, "no stream"]).await;
    let value = |ttl| ["1", "100", EPOCH, "0", "-", ttl];
    let answers = call(&server, &[A, B, A, A], &[&value("0"), &value("0"), &value("soon"), &value("0")]).await;
    assert_eq!(answers, ["9000000000001-0", "!WRONGTYPE", "!ERR", "9000000000001-2"]);
    assert_eq!(stored(&server, A).await.len(), 2, "what could not get its expiry is not stored");
}

#[tokio::test]
async fn a_repeated_msg_id_is_known_also_within_a_call() {
    let server = RedisServer::start();
    let (one, two) = ("tg1:{t:a}:i:one", "tg1:{t:a}:i:two");
    let value = |keep| ["1", keep, EPOCH, "0", "-", "0", "60000"];
    let answers = call(&server, &[A, one, A, two, A, one], &[&value("9"), &value("0"), &value("9")]).await;
    assert_eq!(answers, ["9000000000001-0", "-", "9000000000001-0 duplicate"]);
    assert_eq!(call(&server, &[A, two], &[&value("9")]).await, ["- duplicate"]);
    assert_eq!(stored(&server, A).await.len(), 1);
    let left: i64 = server.run(&["PTTL", one]).await;
    assert!((50_000..=60_000).contains(&left), "{left}");
}

#[tokio::test]
async fn an_expiry_is_renewed_unless_it_is_to_be_left() {
    let server = RedisServer::start();
    let publish = async |ttl: &str| -> i64 {
        call(&server, &[A], &[&["1", "100", EPOCH, "0", "-", ttl]]).await;
        server.run(&["TTL", A]).await
    };
    assert_eq!(publish("-50").await, 50, "a new stream always gets its expiry");
    server.run::<()>(&["EXPIRE", A, "20"]).await;
    assert_eq!(publish("-50").await, 20);
    assert_eq!(publish("50").await, 50);
    server.run::<()>(&["PERSIST", A]).await;
    assert_eq!(publish("0").await, -1, "kept for ever");
}

#[tokio::test]
async fn a_call_with_a_value_too_few_stores_nothing() {
    let server = RedisServer::start();
    let (whole, short) = (["1", "100", EPOCH, "0", "-", "0"], ["1", "100", EPOCH, "0", "-"]);
    assert_eq!(call(&server, &[A, B], &[&whole, &short]).await, ["!ERR"]);
    assert_eq!(call(&server, &[A, "tg1:{t:a}:i:one"], &[&whole]).await, ["!ERR"]);
    assert_eq!((stored(&server, A).await.len(), stored(&server, B).await.len()), (0, 0));
}
