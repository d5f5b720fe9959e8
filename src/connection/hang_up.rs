//! The way to end a TCP connection from inside of a request. Never decides that it ends.

use std::sync::Arc;

use tokio::sync::Notify;

/// In the extensions of every request: ends its TCP connection, whatever waits to be written. A response that nobody
/// reads would otherwise hold it for as long as the client likes.
#[derive(Clone, Debug, Default)]
pub(super) struct HangUp(Arc<Notify>);

impl HangUp {
    /// Ends the connection.
    pub(super) fn now(&self) {
        self.0.notify_one();
    }

    /// Resolves when the connection is to end.
    pub(super) async fn asked(&self) {
        self.0.notified().await;
    }
}
