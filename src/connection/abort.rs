//! Closes a TCP connection from inside a request.

use std::sync::Arc;

use tokio::sync::Notify;

/// A request extension that closes the TCP connection, discarding queued output. Otherwise, a client that never reads
/// the response could keep the connection open indefinitely.
#[derive(Clone, Debug, Default)]
pub(super) struct AbortHandle(Arc<Notify>);

impl AbortHandle {
    /// Closes the connection.
    pub(super) fn now(&self) {
        self.0.notify_one();
    }

    /// Resolves when the connection should close.
    pub(super) async fn asked(&self) {
        self.0.notified().await;
    }
}
