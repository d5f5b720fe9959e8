//! TLS on both listeners: clients and publishers over TLS, and certificates that are replaced, invalid or expired.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::json;

use crate::support::{
    certificates::{Authority, Issued},
    eventually, http,
    redis::RedisServer,
    replica::{API_KEY, SECRET, TestReplica, TokenBuilder},
};

const NAMES: &str = "DNS:localhost,IP:127.0.0.1";

/// Both listeners with a certificate of their own.
fn settings(public: &Issued, operations: &Issued) -> String {
    let section = |name: &str, issued: &Issued| {
        let (certificate, key) = (issued.certificate_file.display(), issued.key_file.display());
        format!("[server.{name}]\ncert_file = \"{certificate}\"\nkey_file = \"{key}\"\n")
    };
    section("tls", public) + &section("ops_tls", operations)
}

fn run(arguments: &[&str], authority: &Path) -> Output {
    let mut command = Command::new(tickgate_kit::program());
    command.args(arguments).env("SSL_CERT_FILE", authority).stdin(Stdio::null());
    command.output().expect("the program to start")
}

/// `tickgate check`, which connects, publishes, resumes and misses nothing.
fn check(replica: &TestReplica, authority: &Path) -> Output {
    let public = format!("wss://localhost:{}", replica.address().port());
    let operations = format!("https://localhost:{}", replica.operations().port());
    run(&["check", &public, "--ops", &operations, "--secret", SECRET, "--api-key", API_KEY], authority)
}

#[tokio::test]
async fn clients_and_publishers_work_over_tls() {
    let (server, authority) = (RedisServer::start(), Authority::new());
    let issued = authority.issue("gateway", NAMES, 2);
    let replica = TestReplica::secure_process(&server, &settings(&issued, &issued), &authority).await;
    let done = check(&replica, &authority.file());
    assert!(done.status.success(), "{done:?}");
    assert!(replica.metric("tickgate_tls_handshakes_total{result=\"accepted\"}").await >= 3.0);

    let other = Authority::new();
    assert!(!check(&replica, &other.file()).status.success(), "signed by another authority");
    eventually("the failed handshake", async || {
        (replica.metric("tickgate_tls_handshakes_total{result=\"failed\"}").await >= 1.0).then_some(())
    })
    .await;

    // An event stream of values, whose reader leaves.
    let token = format!("Bearer {}", TokenBuilder::of("alice").sign());
    let request =
        http::secure_request(replica.address(), "GET", "/sse?channels=ticker:A", &[("authorization", &token)]);
    let mut stream = request.authorities(fs::read_to_string(authority.file()).unwrap()).stream().await.unwrap();
    let mut seen = String::new();
    replica.publish("ticker:A", json!({"price": "1"})).await;
    while !seen.contains("\"price\":\"1\"") {
        seen.push_str(&String::from_utf8_lossy(&stream.next().await.unwrap().expect("more")));
    }
    assert_eq!(replica.metric("tickgate_connections{endpoint=\"sse\"}").await, 1.0);
    drop(stream);
    eventually("the end of the stream", async || {
        (replica.metric("tickgate_connections{endpoint=\"sse\"}").await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_certificate_is_replaced_while_clients_stay_connected_and_an_invalid_one_is_not_used() {
    let (server, authority) = (RedisServer::start(), Authority::new());
    let (issued, operations) = (authority.issue("gateway", NAMES, 2), authority.issue("operations", NAMES, 2));
    let replica = TestReplica::secure_process(&server, &settings(&issued, &operations), &authority).await;
    let expires =
        async || replica.metric("tickgate_certificate_expires_timestamp_seconds{certificate=\"public\"}").await;
    let first = expires().await;
    let token = format!("Bearer {}", TokenBuilder::of("alice").sign());
    let request = http::secure_request(replica.address(), "GET", "/sse?channels=orders", &[("authorization", &token)]);
    let mut stream = request.authorities(fs::read_to_string(authority.file()).unwrap()).stream().await.unwrap();

    // The key does not match the certificate: the previous one stays in use.
    let other = authority.issue("other", NAMES, 9);
    fs::copy(&other.certificate_file, &issued.certificate_file).unwrap();
    eventually("the failure", async || (replica.metric("tickgate_reload_failed").await > 0.0).then_some(())).await;
    assert!(replica.log().contains("is not the key of the certificate"), "{}", replica.log());
    assert!(check(&replica, &authority.file()).status.success() && expires().await == first);
    // Its key follows.
    fs::copy(&other.key_file, &issued.key_file).unwrap();
    eventually("the other certificate", async || (expires().await > first).then_some(())).await;
    assert!(check(&replica, &authority.file()).status.success());
    assert_eq!(replica.metric("tickgate_reload_failed").await, 0.0);

    // An expired one is used, with a warning.
    let ended = authority.issue("ended", NAMES, -1);
    fs::copy(&ended.key_file, &issued.key_file).unwrap();
    fs::copy(&ended.certificate_file, &issued.certificate_file).unwrap();
    eventually("the warning", async || replica.log().contains("a certificate has expired").then_some(())).await;
    assert!(!check(&replica, &authority.file()).status.success(), "clients refuse it");
    let port = replica.address().port();
    let healthy = run(
        &["healthcheck", "--config", &replica.settings_file(), "--listen", &format!("127.0.0.1:{port}")],
        &authority.file(),
    );
    assert!(healthy.status.success(), "the replica is well all the same: {healthy:?}");

    // The first clients are still connected.
    fs::copy(&other.key_file, &issued.key_file).unwrap();
    fs::copy(&other.certificate_file, &issued.certificate_file).unwrap();
    eventually("the other certificate again", async || (expires().await > first).then_some(())).await;
    replica.publish_to("alice", "orders", json!({"type": "order_update", "order_id": "1"})).await;
    let mut seen = String::new();
    while !seen.contains("\"order_id\":\"1\"") {
        seen.push_str(&String::from_utf8_lossy(&stream.next().await.unwrap().expect("more")));
    }
}

#[test]
fn certificates_and_keys_that_do_not_match_are_reported_before_a_port_is_opened() {
    let authority = Authority::new();
    let (own, other) = (authority.issue("own", NAMES, 2), authority.issue("other", NAMES, 2));
    let (certificate, key) = (own.certificate_file.to_str().unwrap(), own.key_file.to_str().unwrap());
    let (other_key, ca) = (other.key_file.to_str().unwrap(), authority.file().display().to_string());
    for (setting, value, told) in [
        (vec![("CERT_FILE", certificate)], "tls", "server.tls.key_file (…): is missing, but"),
        (vec![("KEY_FILE", key)], "tls", "is missing, but"),
        (vec![("CERT_FILE", certificate), ("KEY_FILE", other_key)], "tls", "is not the key of the certificate"),
        (vec![("CERT_FILE", key), ("KEY_FILE", key)], "tls", "holds no such PEM block"),
        (vec![("CLIENT_CA_FILE", &ca)], "ops_tls", "requires server.ops_tls.cert_file"),
        (vec![("CERT_FILE", "/no/such/file"), ("KEY_FILE", key)], "ops_tls", "cannot read /no/such/file"),
    ] {
        let mut command = Command::new(tickgate_kit::program());
        command.arg("check-config").stdin(Stdio::null());
        for (name, path) in &setting {
            command.env(format!("TICKGATE__SERVER__{}__{name}", value.to_uppercase()), path);
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let told = told.rsplit("(…): ").next().unwrap();
        assert!(output.status.code() == Some(2) && text.contains(told), "{setting:?}: {text}");
        assert!(text.contains(&format!("server.{value}.")), "{text}");
    }
}
