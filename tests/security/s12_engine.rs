//! S12: an attacker has the credentials of an engine, which may publish. They once could close any user's connections,
//! lift revocations, read the tokens behind tickets, and write sessions.

use redis::{RedisError, Value, cmd};
use serde_json::json;

use crate::{
    gateway::AttackedGateway,
    neighbour::Question,
    scene::AttackScene,
    siege::{GrowthBounds, Siege},
    support::{
        client::ConnectRequest,
        redis::{RedisServer, url_of},
        replica::token,
    },
};

/// Attempted commands; `{}` stands for the name of the user's session.
const ATTEMPTS: &[&[&str]] = &[
    &["PUBLISH", "tg2:ctl:*", r#"{"told":{"control":{"op":"close_user","user":"alice","code":4002,"reason":""}}}"#],
    &["XADD", "tg2:controls", "*", "c", r#"{"op":"close_user","user":"alice","code":4002,"reason":""}"#],
    &["PUBLISH", "tg2:{gen}:c", "x"],
    &["GET", "tg2:{u:alice}:r"],
    &["SET", "tg2:{u:alice}:r", "9999999999"],
    &["EVAL", "return redis.call('GET', 'tg2:{u:alice}:r')", "0"],
    &["EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", "1", "tg2:{u:alice}:r", "9999999999"],
    &["GET", "tg2:ticket:anything"],
    &["EVAL", "return redis.call('GETDEL', 'tg2:ticket:anything')", "0"],
    &["GET", "tg2:{s:{}}:r"],
    &["SET", "tg2:{s:{}}:r", "9:nobody {}"],
    &["ZADD", "tg2:{u:alice}:l", "1", "x"],
    &["ZADD", "tg2:{replicas}:l", "1", "x"],
    &["SET", "tg2:lease:synthetic", "x"],
    &["KEYS", "*"],
    &["FLUSHALL"],
    &["CONFIG", "GET", "*"],
    &["ACL", "LIST"],
];

pub async fn s12_an_engine_publishes_and_does_nothing_else() {
    let redis = RedisServer::shipped(&[]);
    let url = |user| url_of(user, format!("127.0.0.1:{}", redis.port()));
    let gateway = AttackedGateway::start(&url("tickgate"), "[redis]\nengines = true\n").await;
    let engine = url("engine");
    let scene = AttackScene { gateway, redis };
    let siege = Siege::lay(&scene, "S12 the credentials of an engine", Question::New).await;
    let mut alice = ConnectRequest::new(scene.gateway.public, "/ws/trading").token(&token("alice")).open().await;
    alice.greeted().await;
    let session = alice.welcome["session"].as_str().expect("a session").to_owned();
    let client = redis::Client::open(engine).unwrap();
    let mut engine = client.get_multiplexed_async_connection().await.unwrap();
    for words in ATTEMPTS {
        let mut attempt = cmd(words[0]);
        for word in &words[1..] {
            attempt.arg(word.replace("{}", &session));
        }
        let answer: Result<Value, RedisError> = attempt.query_async(&mut engine).await;
        let said = answer.as_ref().err().map_or_else(|| format!("{answer:?}"), ToString::to_string);
        println!("  attacker   {}: {said:.60}", words[..2.min(words.len())].join(" "));
        let refused = ["NoPerm", "can't access", "can't run"].iter().any(|word| said.contains(word));
        assert!(refused, "{words:?}: {answer:?}");
    }
    alice.ask(json!({"type": "ping"})).await;
    // Permitted commands work.
    let generation: Option<String> = cmd("HGET").arg("tg2:{gen}").arg("open").query_async(&mut engine).await.unwrap();
    assert!(generation.is_some(), "an engine finds the generation");
    siege.lift(&scene, &[], GrowthBounds::SMALL).await;
}
