//! `tickgate check` of a running gateway: passes if everything works, and otherwise names the failed step.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{
    redis::RedisServer,
    replica::{API_KEY, SECRET, TestReplica},
};

/// Connects to one replica and publishes through the other.
async fn check(connect: &TestReplica, publish: &TestReplica, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tickgate"));
    command.arg("check").arg(format!("ws://{}", connect.address()));
    command.arg("--ops").arg(format!("http://{}", publish.operations_address())).args(arguments);
    tokio::task::spawn_blocking(move || command.env_clear().output().unwrap()).await.unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[tokio::test]
async fn a_gateway_of_two_replicas_passes_with_its_configuration() {
    let server = RedisServer::start();
    let (one, other) = (TestReplica::on(&server).await, TestReplica::on(&server).await);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tickgate.toml");
    let settings = format!(
        "[server]\nmode = \"production\"\n[auth]\nhs256_secrets = [\"{SECRET}\"]\napi_keys = [\"{API_KEY}\"]\n"
    );
    std::fs::write(&file, settings).unwrap();
    let output = check(&one, &other, &["--json", "--config", file.to_str().unwrap()]).await;
    let steps = lines(&output);
    assert!(output.status.success(), "{steps:?}");
    let names: Vec<_> = steps.iter().filter_map(|step| step["step"].as_str()).collect();
    assert_eq!(
        names,
        [
            "connect",
            "subscribe",
            "publish",
            "receive",
            "disconnect",
            "publish meanwhile",
            "connect again",
            "resume",
            "disconnect again"
        ]
    );
    assert!(steps.iter().all(|step| step["ok"] == true), "{steps:?}");
    assert!(steps[7]["detail"].as_str().unwrap().contains("complete"), "{steps:?}");
    assert_eq!(steps[9]["steps"], 9);
    for secret in [SECRET, API_KEY] {
        assert!(!String::from_utf8_lossy(&output.stdout).contains(secret), "a secret is printed");
    }
}

#[tokio::test]
async fn replicas_that_share_nothing_fail_where_the_message_should_arrive() {
    let (one, other) = (TestReplica::alone().await, TestReplica::alone().await);
    let flags = ["--json", "--secret", SECRET, "--api-key", API_KEY, "--timeout", "2s"];
    let output = check(&one, &other, &flags).await;
    let steps = lines(&output);
    assert_eq!(output.status.code(), Some(1), "{steps:?}");
    let last = steps.last().unwrap();
    assert_eq!((&last["step"], &last["ok"]), (&"receive".into(), &false.into()), "{steps:?}");
}

#[tokio::test]
async fn a_failure_to_connect_names_the_address() {
    let replica = TestReplica::alone().await;
    let foreign = "another-secret-that-opens-nothing-1234567890";
    for (secret, key, step, code) in [(foreign, API_KEY, "connect", "4001"), (SECRET, foreign, "publish", "401")] {
        let output = check(&replica, &replica, &["--secret", secret, "--api-key", key]).await;
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let last = said.lines().last().unwrap();
        assert!(last.starts_with(&format!("FAIL  {step} ")) && last.contains(code), "{said}");
    }
    let output = check(&replica, &replica, &[]).await;
    assert_eq!(output.status.code(), Some(2), "no secret, no key: nothing to check with");
}
