//! State that outlives a connection: positions, pending requests, the token, the session. Knows no connection.

use crate::{
    outgoing::PendingRequests,
    positions::Positions,
    queue::EventQueue,
    token::{CurrentToken, TokenSource},
};

/// State that outlives a connection.
#[derive(Debug)]
pub(crate) struct Lasting {
    pub queue: EventQueue,
    pub positions: Positions,
    pub outbox: PendingRequests,
    pub source: Option<TokenSource>,
    pub token: CurrentToken,
    /// Of the last welcome.
    pub session: Option<String>,
    /// Of the last welcome, if there was one.
    pub user: Option<Option<String>>,
    /// Number of consecutive connections without a welcome that ended with the request for a new token.
    pub tokens_refused: u8,
    /// Index of the endpoint of the current or next connection.
    pub endpoint: usize,
}
