//! S3. Connections that ask for nothing, and responses that nobody reads: both end, and neither is without a bound.

use std::{net::Ipv4Addr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{scene::Scene, support::eventually};

const CONNECTIONS: usize = 120;
/// `limits.connections_per_address_max`, and those that may be told that there are too many.
const KEPT_MAX: usize = 20 + 32;

/// From an address of its own.
async fn dial(gateway: std::net::SocketAddr, receive_buffer: u32) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(receive_buffer).expect("a size");
    socket.bind((Ipv4Addr::new(127, 0, 0, 2), 0).into()).expect("an address");
    socket.connect(gateway).await.expect("a listener")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s03_plain_connections_are_bounded_and_responses_that_nobody_reads_end() {
    let settings = "[limits]\nconnections_per_address_max = 20\n[session]\nwrite_timeout = \"1s\"\n";
    let scene = Scene::set("S3: plain connections, and responses that nobody reads", settings, Duration::ZERO).await;
    let gateway = scene.gateway.public;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(dial(gateway, 4_096).await);
    }
    let mut open = 0;
    for stream in &mut held {
        // Closed ones say so at once; the others wait for a request head.
        open += usize::from(timeout(Duration::from_millis(50), stream.read_u8()).await.is_err());
    }
    println!("  attacker   {CONNECTIONS} connections, {open} kept");
    assert!((1..=KEPT_MAX).contains(&open), "{open} of {CONNECTIONS} connections are held");
    drop(held);

    // Asks again and again, and reads nothing.
    let mut greedy = eventually("a place", async || {
        let mut stream = dial(gateway, 4_096).await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.ok()?;
        timeout(Duration::from_millis(500), stream.read_u8()).await.ok()?.ok()?;
        Some(stream)
    })
    .await;
    let flood = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1_000);
    let ended = timeout(Duration::from_secs(20), async {
        let began = std::time::Instant::now();
        while greedy.write_all(&flood).await.is_ok() {}
        began.elapsed()
    });
    let took = ended.await.expect("the gateway to end a connection whose client reads nothing");
    println!("  attacker   was cut off after {took:.1?}");
    assert!(scene.gateway.is_ready().await);
}
