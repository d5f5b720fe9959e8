//! What outlives a connection: positions, requests on their way, the token, the session. Never knows a connection.

use crate::{
    outgoing::Outbox,
    positions::Positions,
    queue::Queue,
    token::{Token, TokenSource},
};

/// All of it.
#[derive(Debug)]
pub(crate) struct Lasting {
    pub queue: Queue,
    pub positions: Positions,
    pub outbox: Outbox,
    pub source: Option<TokenSource>,
    pub token: Token,
    /// Of the last welcome.
    pub session: Option<String>,
    /// Of the last welcome, if there was one.
    pub user: Option<Option<String>>,
    /// How often in a row a new token was asked for without a welcome.
    pub tokens_refused: u8,
    /// Which of the endpoints the present or next connection goes to.
    pub endpoint: usize,
}
