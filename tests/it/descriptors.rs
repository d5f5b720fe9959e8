//! A replica without free file descriptors: vital functions work; clients are refused with an explanation.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::json;
use tickgate::descriptors::raise_limit;
use tickgate_client::http::{HttpRequest, Response};
use tokio::{io::AsyncReadExt, net::TcpStream, task::JoinSet};

use crate::support::{
    eventually,
    redis::RedisServer,
    replica::{API_KEY, TestReplica},
    wire::{RawConnection, upgrade_request},
};

/// Number of clients that try to connect.
const CROWD: usize = 400;
/// Timeout of a probe: normally milliseconds, apart from the clients' own work on a busy machine.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// Connects, sends nothing, and reconnects whenever it is disconnected.
async fn pester(address: SocketAddr) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            let _ = stream.read(&mut [0; 16]).await;
        }
    }
}

/// The response to a request beside the crowd. A prober whose request arrives after its connection lost its place
/// retries.
async fn ask(address: SocketAddr, path: &str) -> Response {
    let url = format!("http://{address}{path}");
    eventually(path, async || {
        HttpRequest::get(&url).timeout(PROBE_TIMEOUT).header("x-api-key", API_KEY).send().await.ok()
    })
    .await
}

async fn probes_answer(replica: &TestReplica) {
    for (path, status) in [("/livez", 200), ("/readyz", 503)] {
        assert_eq!(ask(replica.address(), path).await.status.as_u16(), status, "{path}");
    }
    assert!(metric(replica, "process_open_fds").await > 0.0);
}

/// The sum of a metric over its series.
async fn metric(replica: &TestReplica, name: &str) -> f64 {
    let text = ask(replica.operations_address(), "/metrics").await.body;
    let own = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    text.lines().filter(own).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_and_both_redis_links_work_while_clients_queue_for_descriptors() {
    raise_limit().expect("descriptors for the crowd");
    let (server, began) = (RedisServer::start(), Instant::now());
    let replica = TestReplica::limited_process(&server, "[log]\nformat = \"json\"\n", [256, 256]).await;
    assert!(replica.log().contains("needs more file descriptors than this process may open"), "{}", replica.log());
    let max = replica.metric("tickgate_connections_max").await as usize;
    assert!((100..200).contains(&max), "{max} of 256 descriptors for clients");

    let (mut inside, mut refused) = (Vec::new(), Vec::new());
    for _ in 0..CROWD {
        match replica.connect("/ws/market").try_open().await {
            Ok(mut client) => {
                client.greeted().await;
                inside.push(client);
            }
            Err(refusal) => refused.push(refusal),
        }
    }
    assert_eq!(inside.len(), max);
    assert!(refused.iter().all(|refusal| refusal.status == 503 && refusal.retry_after.is_some()), "{refused:?}");
    replica.connect("/ws/market").origin("http://localhost:5173").expect_closed(1013).await;
    inside[0].subscribe(&["ticker:BTCUSDT"]).await;

    let mut crowd = JoinSet::new();
    for _ in 0..CROWD {
        crowd.spawn(pester(replica.address()));
        if crowd.len() % 8 == 0 {
            crowd.spawn(pester(replica.operations_address()));
        }
    }
    eventually("the reserve to be in use", async || (metric(&replica, "process_open_fds").await > 190.0).then_some(()))
        .await;
    for _ in 0..5 {
        probes_answer(&replica).await;
    }
    for origin in ["", "Origin: http://localhost:5173\r\n"] {
        let refused = eventually("the refusal", async || {
            let mut wire = RawConnection::connect(replica.address()).await;
            wire.send(upgrade_request("/ws/market", origin).as_bytes()).await;
            wire.answer_head().await
        });
        assert_eq!(refused.await.0, 503, "{origin}");
    }

    let links = metric(&replica, "tickgate_redis_reconnects_total").await;
    server.client_kill("normal").await;
    server.client_kill("pubsub").await;
    eventually("both links to be made again", async || {
        let made = metric(&replica, "tickgate_redis_reconnects_total").await >= links + 2.0;
        (made && metric(&replica, "tickgate_redis_up").await >= 2.0).then_some(())
    })
    .await;
    let publication = json!({"channel": "ticker:BTCUSDT", "data": {"price": "1"}}).to_string();
    eventually("a publication", async || {
        let url = format!("http://{}/api/v1/publish", replica.operations_address());
        let request = HttpRequest::post(url, publication.clone()).timeout(PROBE_TIMEOUT).bearer(API_KEY);
        request.send().await.ok().filter(|answer| answer.status == 200)
    })
    .await;
    inside[0].expect(json!({"price": "1"})).await;
    probes_answer(&replica).await;

    crowd.shutdown().await;
    inside.truncate(max - 10);
    let mut late = eventually("room for a client", async || replica.connect("/ws/market").try_open().await.ok()).await;
    late.greeted().await;
    let (log, seconds) = (replica.log(), began.elapsed().as_secs() as usize);
    let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert!(count("cannot accept a connection") <= seconds + 1 && count("client refused") <= seconds + 1, "{log}");
}

#[tokio::test]
async fn the_soft_limit_is_raised_to_the_hard_one() {
    let server = RedisServer::start();
    let replica = TestReplica::limited_process(&server, "", [128, 1_024]).await;
    assert_eq!(replica.metric("process_max_fds").await, 1_024.0);
}
