//! Replicas as processes, stopped and suspended by signals, as in production.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    self,
    client::{ConnectRequest, TestClient},
    eventually,
    redis::RedisServer,
    replica::{API_KEY, TestReplica, token},
};

const SETTINGS: &str = "[session]\nreplica_ttl = \"2s\"\n";
/// The default of `drain.delay`.
const DELAY: Duration = Duration::from_secs(5);

fn order(number: u32) -> Value {
    json!({"type": "order_update", "order_id": number.to_string()})
}

#[tokio::test]
async fn three_processes_on_one_redis_are_one_gateway() {
    let server = RedisServer::start();
    let settings = format!("{SETTINGS}[limits]\nconnections_per_user_max = 3\n");
    let start = || TestReplica::process(&server, &settings);
    let mut replicas = vec![start().await, start().await, start().await];
    let mut clients: Vec<TestClient> = Vec::new();
    for replica in &replicas {
        let mut client = replica.trading("alice").await;
        client.subscribe(&["orders"]).await;
        clients.push(client);
    }
    for replica in &replicas {
        replica.connect("/ws/trading").token(&token("alice")).expect_refused(429).await;
    }
    for (number, replica) in (1..).zip(&replicas) {
        replica.publish_to("alice", "orders", order(number)).await;
        for client in &mut clients {
            client.expect(order(number)).await;
        }
    }
    let cursor = clients[0].ask(json!({"type": "history", "channel": "orders", "last": 1})).await;
    let cursor = cursor["messages"][0]["_meta"]["id"].clone();
    replicas.remove(0).kill();
    clients.remove(0).expect_close(1006).await;
    for number in 4..=20 {
        replicas[0].publish_to("alice", "orders", order(number)).await;
    }
    let mut back = eventually("the killed replica's slot", async || {
        replicas[1].connect("/ws/trading").token(&token("alice")).try_open().await.ok()
    })
    .await;
    back.greeted().await;
    back.subscribe_since(&["orders"], &cursor).await;
    for number in 4..=20 {
        back.expect(order(number)).await;
    }
    let end = back.caught_up().await;
    assert_eq!((&end["replayed"], &end["complete"]), (&json!(17), &json!(true)));
}

#[tokio::test]
async fn a_replica_that_slept_through_its_lease_neither_counts_twice_nor_keeps_moved_sessions() {
    let server = RedisServer::start();
    let (sleeper, other) =
        (TestReplica::process(&server, SETTINGS).await, TestReplica::process(&server, SETTINGS).await);
    let (mut moved, mut stayed) = (sleeper.trading("alice").await, sleeper.trading("bob").await);
    moved.subscribe(&["orders"]).await;
    stayed.subscribe(&["orders"]).await;
    let listed = async || {
        let listed = other.api_get("/api/v1/connections").await.json();
        listed["connections"].as_array().map_or(0, Vec::len)
    };
    eventually("both to be listed", async || (listed().await == 2).then_some(())).await;
    let session = eventually("the session", async || {
        let own = other.api_get("/api/v1/users/alice").await.json();
        own["connections"][0]["session"].as_str().map(str::to_owned)
    })
    .await;
    let record = format!("tg2:{{s:{session}}}:r");
    eventually("the session's record", async || {
        let record: Option<String> = server.run(&["GET", &record]).await;
        record.is_some_and(|record| record.contains("trading")).then_some(())
    })
    .await;
    sleeper.freeze();
    eventually("the sleeper to be swept", async || (listed().await == 0).then_some(())).await;
    let request = || other.connect("/ws/trading").token(&token("alice")).query("session", &moved.session());
    let mut alice = request().open().await;
    alice.greeted().await;
    assert_eq!(alice.welcome["resumed"], true);
    other.publish_to("bob", "orders", order(1)).await;
    sleeper.thaw();
    moved.expect_close(4501).await;
    stayed.expect(order(1)).await;
    eventually("two replicas, alice on one and bob on the other, each once", async || {
        let status = other.get("/ws/status").await.json();
        let once = status["user_connections"] == json!({"alice": 1, "bob": 1});
        (status["replicas"] == 2 && once && listed().await == 2).then_some(())
    })
    .await;
    alice.expect_nothing().await;
}

#[tokio::test]
async fn a_request_that_waited_in_a_suspended_replica_does_not_end_a_newer_connection() {
    let server = RedisServer::start();
    let (sleeper, other) = (TestReplica::process(&server, "").await, TestReplica::on(&server).await);
    let session = other.trading("alice").await.session();
    let request =
        |replica: &TestReplica| replica.connect("/ws/trading").token(&token("alice")).query("session", &session);
    sleeper.freeze();
    let (waited, mut newest) = tokio::join!(request(&sleeper).try_open(), async {
        // Shorter suspensions are not noticed: clients wait longer for a welcome.
        tokio::time::sleep(Duration::from_millis(2_600)).await;
        let mut newest = request(&other).open().await;
        newest.greeted().await;
        sleeper.thaw();
        newest
    });
    assert_eq!(newest.welcome["resumed"], true);
    let refusal = waited.expect_err("the newer connection stays");
    assert_eq!((refusal.status, refusal.retry_after.as_deref()), (503, Some("3")), "{refusal:?}");
    newest.expect_nothing().await;
    let again = eventually("the client that tries again", async || request(&sleeper).try_open().await.ok()).await;
    newest.expect_close(4501).await;
    again.close().await;
}

#[tokio::test]
async fn unused_signals_are_logged_and_close_no_connection() {
    let server = RedisServer::start();
    let mut replica = TestReplica::process(&server, SETTINGS).await;
    let mut alice = replica.trading("alice").await;
    alice.subscribe(&["orders"]).await;
    for signal in ["USR1", "USR2"] {
        replica.signal(signal);
        let line = format!("signal=\"SIG{signal}\"");
        eventually(&line, async || replica.log().contains(&line).then_some(())).await;
    }
    replica.publish_to("alice", "orders", order(1)).await;
    alice.expect(order(1)).await;
    replica.drain();
    replica.signal("USR1");
    alice.expect_type("closing").await;
    alice.expect_close(1012).await;
    replica.ended().await;
}

/// Publishes over a kept connection; returns the head of the response, or `None` if the connection had ended.
async fn publish_over(stream: &mut TcpStream) -> Option<String> {
    let body = r#"{"channel":"logs","data":{"n":1}}"#;
    let head = format!("POST /api/v1/publish HTTP/1.1\r\nhost: localhost\r\nx-api-key: {API_KEY}\r\n");
    let typed = format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(format!("{head}{typed}").as_bytes()).await.ok()?;
    let (mut seen, mut buffer) = (String::new(), [0; 4096]);
    while !seen.ends_with('}') {
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => seen.push_str(&String::from_utf8_lossy(&buffer[..read])),
            _ => return None,
        }
    }
    Some(seen.to_lowercase())
}

#[tokio::test]
async fn publishers_leave_a_draining_replica_and_always_get_a_response() {
    let server = RedisServer::start();
    let settings = format!("{SETTINGS}[log]\nformat = \"json\"\n[drain]\ndelay = \"1s\"\n");
    let mut replica = TestReplica::process(&server, &settings).await;
    let _client = replica.trading("alice").await;
    let operations = replica.operations_address();
    let (mut kept, mut idle) =
        (TcpStream::connect(operations).await.unwrap(), TcpStream::connect(operations).await.unwrap());
    for stream in [&mut kept, &mut idle] {
        let answer = publish_over(stream).await.expect("an answer");
        assert!(answer.starts_with("http/1.1 200") && !answer.contains("connection: close"), "{answer}");
    }
    replica.drain();
    eventually("the drain", async || (replica.get("/readyz").await.status == 503).then_some(())).await;
    let answer = publish_over(&mut kept).await.expect("an answer");
    assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"), "{answer}");
    assert_eq!(publish_over(&mut kept).await, None, "the connection is not kept");

    let mut answered = 0;
    while let Ok(mut stream) = TcpStream::connect(operations).await {
        if let Some(answer) = publish_over(&mut stream).await {
            assert!(answer.starts_with("http/1.1 200"), "{answer}");
            answered += 1;
        }
    }
    assert!(answered > 1);
    assert_eq!(idle.read(&mut [0; 16]).await.unwrap(), 0, "an idle connection ends as well");
    let ended = eventually("its last line", async || {
        let log = replica.log();
        log.lines().find(|line| line.contains("\"ended\"")).map(str::to_owned)
    })
    .await;
    assert!(ended.contains("\"tasks_left\":0"), "{ended}");
    replica.ended().await;
}

#[tokio::test]
async fn sigterm_drains_and_ends_with_success() {
    let server = RedisServer::start();
    let mut replica = TestReplica::process(&server, SETTINGS).await;
    let mut alice = replica.trading("alice").await;
    replica.drain();
    alice.expect_type("closing").await;
    alice.expect_close(1012).await;
    replica.ended().await;
    let mut redis = server.connect().await;
    let left: Vec<String> = redis::cmd("KEYS").arg("tg2:{r:*").query_async(&mut redis).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    let leases: u32 = redis::cmd("ZCARD").arg("tg2:{u:alice}:l").query_async(&mut redis).await.unwrap();
    assert_eq!(leases, 0, "nobody has to wait for the lease");
}

#[tokio::test]
async fn ctrl_c_ends_development_mode_at_once_and_says_so_to_its_clients() {
    let mut command = Command::new(support::program());
    command.args(["serve", "--development", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"]);
    command.env("TICKGATE__LOG__FORMAT", "json");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    let mut lines = log.lines().map_while(Result::ok);
    let listens = move || {
        let line = lines.find(|line| line.contains("\"serving\"")).expect("a line that it serves");
        let line: Value = serde_json::from_str(&line).unwrap();
        // Kept: a program whose log nobody reads must not fail on it.
        (line["listen"].as_str().unwrap().parse().unwrap(), lines)
    };
    let (address, _lines) = tokio::task::spawn_blocking(listens).await.unwrap();
    let mut client = ConnectRequest::new(address, "/ws/market").open().await;
    let asked = Instant::now();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    client.expect_close(1012).await;
    let ended = eventually("its end", async || child.try_wait().unwrap()).await;
    assert!(ended.success(), "{ended}");
    assert!(asked.elapsed() < DELAY, "the drain's delay was not waited for");
}

#[tokio::test]
async fn development_mode_survives_a_blocked_standard_output() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    for stdout in [Stdio::from(full), Stdio::from(closed)] {
        let mut command = Command::new(support::program());
        command.args(["serve", "--development", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"]);
        let mut child = command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let said = tokio::task::spawn_blocking(move || {
            let mut lines = log.lines().map_while(Result::ok);
            let serves = lines.any(|line| line.contains("serving"));
            // A program that fails on its output exits with another code.
            (serves, lines)
        });
        let (serves, lines) = said.await.unwrap();
        assert!(serves);
        assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
        let ended = eventually("its end", async || child.try_wait().unwrap()).await;
        assert!(ended.success(), "{ended}: {:?}", lines.collect::<Vec<_>>());
    }
}
