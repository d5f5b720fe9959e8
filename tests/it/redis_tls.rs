//! Redis over TLS with a private authority and an ACL user: the link, the pool, and a wrong authority.

use std::{path::Path, process::Command, sync::Arc};

use serde_json::json;
use tempfile::TempDir;
use tickgate::{backplane::ReadLimits, config, metrics::Metrics, redis_link::RedisLink, tasks::Tasks};
use tickgate_wire::model::StreamId;

use crate::support::{
    certificates::{Authority, Issued},
    eventually,
    follower::{RecordingFollower, acknowledging, backplane_over, number, redis_config, retain, topic},
    redis::{RedisServer, free_port},
    replica::TestReplica,
};

/// An authority and a server certificate for 127.0.0.1, created for this test.
pub fn certificates() -> TempDir {
    let directory = TempDir::with_prefix("tickgate-tls-").expect("a temporary directory");
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(directory.path()).output();
        let output = output.expect("openssl: install it (apt-get install openssl)");
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    std::fs::write(directory.path().join("names"), "subjectAltName=IP:127.0.0.1\n").expect("written");
    for authority in ["ca", "other"] {
        openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={authority} \
             -keyout {authority}.key -out {authority}.pem"
        ));
    }
    openssl(
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=redis -keyout redis.key -out redis.csr",
    );
    openssl("x509 -req -in redis.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out redis.pem");
    directory
}

pub fn server(certificates: &Path, port: u16) -> RedisServer {
    let file = |name: &str| certificates.join(name).to_str().expect("a plain path").to_owned();
    RedisServer::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &file("redis.pem"),
        "--tls-key-file",
        &file("redis.key"),
        "--tls-ca-cert-file",
        &file("ca.pem"),
        "--tls-auth-clients",
        "no",
    ])
}

fn settings(port: u16, authority: &Path) -> config::Redis {
    let url = format!("rediss://gate:se%20cret@127.0.0.1:{port}/");
    let settings = redis_config(&url);
    let authority = std::fs::read_to_string(authority).expect("a certificate");
    let access = config::Access { authority: Some(authority.into()), ..(*settings.access()).clone() };
    settings.access.store(Arc::new(access));
    settings
}

#[tokio::test]
async fn only_the_configured_authority_is_trusted() {
    let (certificates, port) = (certificates(), free_port());
    let server = server(certificates.path(), port);
    server.run::<()>(&["ACL", "SETUSER", "gate", "on", ">se cret", "~*", "&*", "+@all"]).await;
    let tasks = Tasks::new();

    let link = RedisLink::start(&settings(port, &certificates.path().join("ca.pem")), &tasks, Metrics::new());
    let backplane = backplane_over(&link, &tasks);
    let (follower, orders) = (RecordingFollower::follow(&backplane), topic("orders"));
    follower.begin(&backplane, &orders).await;
    acknowledging(&backplane).await;
    backplane.publish(number(&orders, &retain(10), 1)).await.expect("accepted");
    follower.has_arrived(&orders, 1).await;
    assert_eq!(backplane.read(&orders, StreamId::ZERO, ReadLimits::ONE).await.expect("a page").messages.len(), 1);

    let metrics = Metrics::new();
    let stranger = RedisLink::start(&settings(port, &certificates.path().join("other.pem")), &tasks, metrics.clone());
    let tries = || metrics.text().expect("metrics").lines().any(refused_twice);
    eventually("it tried more than once", async || tries().then_some(())).await;
    assert!(stranger.command().is_err(), "signed by another authority");
}

/// Redis requires a certificate: the replica presents its own, a changed one from the next connection on, and reports
/// one that is missing or of another authority.
#[tokio::test]
async fn a_certificate_is_presented_to_a_redis_that_requires_one() {
    let (authority, other, port) = (Authority::new(), Authority::new(), free_port());
    let own = authority.issue("redis", "IP:127.0.0.1", 2);
    let file = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let mut server = RedisServer::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &file(&own.certificate_file),
        "--tls-key-file",
        &file(&own.key_file),
        "--tls-ca-cert-file",
        &file(&authority.file()),
        "--tls-auth-clients",
        "yes",
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
    ]);
    let shown = authority.issue("gateway", "DNS:gateway", 2);
    let foreign = other.issue("gateway", "DNS:gateway", 2);
    let folder = TempDir::with_prefix("tickgate-shown-").expect("a temporary directory");
    let (certificate, key) = (folder.path().join("own.pem"), folder.path().join("own.key"));
    let show = |issued: &Issued| {
        std::fs::copy(&issued.key_file, &key).expect("copied");
        std::fs::copy(&issued.certificate_file, &certificate).expect("copied");
    };
    let settings = |identity: &str| format!("[redis]\nca_file = \"{}\"\n{identity}", authority.file().display());
    let (url, files) = (
        format!("rediss://127.0.0.1:{port}/"),
        format!("client_cert_file = \"{}\"\nclient_key_file = \"{}\"\n", certificate.display(), key.display()),
    );

    show(&foreign);
    let replica = TestReplica::unready_process(&url, &settings(&files)).await;
    let nobody = TestReplica::unready_process(&url, &settings("")).await;
    for refused in [&replica, &nobody] {
        eventually("it tried", async || (refused.metric("tickgate_redis_errors_total").await >= 2.0).then_some(()))
            .await;
        assert_eq!(refused.metric("tickgate_redis_up").await, 0.0);
    }

    show(&authority.issue("late", "DNS:gateway", 2));
    eventually("the links", async || (replica.metric("tickgate_redis_up").await == 2.0).then_some(())).await;
    let mut client = replica.trading("alice").await;
    client.subscribe(&["orders"]).await;
    let publish = async |number: u64| {
        let data = json!({"type": "order_update", "number": number});
        let entry = json!({"channel": "orders", "user": "alice", "data": data});
        eventually("an acknowledgement", async || {
            (replica.api_post("/api/v1/publish", entry.clone()).await.status == 200).then_some(())
        })
        .await;
        data
    };
    client.expect(publish(1).await).await;
    let ends = "tickgate_certificate_expires_timestamp_seconds{certificate=\"redis_client\"}";
    assert!(replica.metric(ends).await > 0.0);

    // A renewed one is used for the next connection, and closes no client.
    show(&shown);
    eventually("the reload", async || {
        (replica.metric("tickgate_reloads_total{result=\"ok\"}").await >= 2.0).then_some(())
    })
    .await;
    server.kill();
    server.restart();
    eventually("the links again", async || {
        let made = replica.metric("tickgate_redis_reconnects_total").await >= 4.0;
        (made && replica.metric("tickgate_redis_up").await == 2.0).then_some(())
    })
    .await;
    client.expect(publish(2).await).await;
    assert_eq!(nobody.metric("tickgate_redis_up").await, 0.0);
}

fn refused_twice(line: &str) -> bool {
    line.strip_prefix("tickgate_redis_errors_total{").is_some_and(|rest| {
        rest.rsplit_once(' ').is_some_and(|(_, count)| count.parse::<u64>().is_ok_and(|count| count >= 2))
    })
}
