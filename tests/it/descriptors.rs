//! A replica that has used up its file descriptors: what must always work, works; clients are refused with an explanation.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::json;
use tickgate::descriptors::raise_limit;
use tokio::{io::AsyncReadExt, net::TcpStream, task::JoinSet, time::timeout};

use crate::support::{eventually, redis::RedisServer, replica::Replica};

/// Clients that want a connection.
const CROWD: usize = 400;
/// How long a probe may take. Milliseconds, but for the crowd's own work on a busy machine.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// One that connects, says nothing, and comes back whenever it is sent away.
async fn pester(address: SocketAddr) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            let _ = stream.read(&mut [0; 16]).await;
        }
    }
}

async fn probes_answer(replica: &Replica) {
    for (path, status) in [("/livez", 200), ("/readyz", 503)] {
        let answer = timeout(PROBE_TIMEOUT, replica.get(path)).await;
        assert_eq!(answer.map(|answer| answer.status), Ok(status), "{path}");
    }
    let metrics = timeout(PROBE_TIMEOUT, replica.api_get("/metrics")).await.expect("metrics in time");
    assert!(metrics.body.contains("process_open_fds"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_and_both_redis_links_work_while_clients_queue_for_descriptors() {
    raise_limit().expect("descriptors for the crowd");
    let (server, began) = (RedisServer::start(), Instant::now());
    let replica = Replica::limited_process(&server, "[log]\nformat = \"json\"\n", [256, 256]).await;
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
    eventually("the reserve to be in use", async || (replica.metric("process_open_fds").await > 190.0).then_some(()))
        .await;
    for _ in 0..5 {
        probes_answer(&replica).await;
    }
    replica.connect("/ws/market").expect_refused(503).await;
    replica.connect("/ws/market").origin("http://localhost:5173").expect_refused(503).await;

    let links = replica.metric("tickgate_redis_reconnects_total").await;
    server.client_kill("normal").await;
    server.client_kill("pubsub").await;
    eventually("both links to be made again", async || {
        let made = replica.metric("tickgate_redis_reconnects_total").await >= links + 2.0;
        (made && replica.metric("tickgate_redis_up").await >= 2.0).then_some(())
    })
    .await;
    replica.publish("ticker:BTCUSDT", json!({"price": "1"})).await;
    inside[0].expect(json!({"price": "1"})).await;
    probes_answer(&replica).await;

    crowd.shutdown().await;
    inside.truncate(max - 10);
    let mut late = eventually("room for a client", async || replica.connect("/ws/market").try_open().await.ok()).await;
    late.greeted().await;
    let (log, seconds) = (replica.log(), began.elapsed().as_secs() as usize);
    let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert!(count("can't accept a connection") <= seconds + 1 && count("client refused") <= seconds + 1, "{log}");
}

#[tokio::test]
async fn the_soft_limit_is_raised_to_the_hard_one() {
    let server = RedisServer::start();
    let replica = Replica::limited_process(&server, "", [128, 1_024]).await;
    assert_eq!(replica.metric("process_max_fds").await, 1_024.0);
}
