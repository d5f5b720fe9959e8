//! An outbox over TLS: encrypted output that the kernel did not accept is still written.

use std::future::poll_fn;

use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::{EndpointOutboxes, Outbox, OutboxSocket, QueueLimits};
use crate::{metrics::Metrics, tls::tests::pair};

#[tokio::test]
async fn the_rest_of_the_last_record_is_written_when_the_client_reads() {
    let (near, mut far) = pair().await;
    let shared =
        EndpointOutboxes::new(QueueLimits { messages_max: 9, bytes_max: 9_000_000 }, Metrics::new(), "trading");
    let outbox = Outbox::new(OutboxSocket::Tls(Box::new(near)), shared);
    let frame = Bytes::from(vec![7; 100_000]);
    let mut sent = 0;
    // Until the kernel accepts no more, and output is buffered on this side.
    while !outbox.socket().has_pending() {
        outbox.send(frame.clone());
        sent += frame.len();
    }
    outbox.send(frame.clone());
    sent += frame.len();
    let read = async {
        let mut received = vec![0; sent];
        far.read_exact(&mut received).await.unwrap();
        assert!(received.iter().all(|byte| *byte == 7));
    };
    let flush = poll_fn(|cx| {
        outbox.register(cx);
        outbox.poll_flush(cx)
    });
    tokio::join!(read, flush);
    assert!(!outbox.socket().has_pending());
}
