//! The settings of a client. Plain values.

use crate::{channel::Channel, headers::Headers, token::TokenSource};

/// How the token reaches the gateway.
#[derive(Clone, Debug)]
pub(crate) enum TokenPlacement {
    None,
    Bearer(TokenSource),
    Message(TokenSource),
}

/// The settings of a client.
#[derive(Clone, Debug)]
pub(crate) struct ClientSettings {
    /// At least one.
    pub endpoints: Vec<String>,
    pub auth: TokenPlacement,
    pub headers: Headers,
    pub channels: Vec<Channel>,
    pub queue_max: usize,
}
