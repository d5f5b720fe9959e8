//! The settings of a client. Plain values.

use crate::{channel::Channel, headers::Headers, token::TokenSource};

/// How the token reaches the gateway.
#[derive(Clone, Debug)]
pub(crate) enum Auth {
    None,
    Bearer(TokenSource),
    Message(TokenSource),
}

/// The settings of a client.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// At least one.
    pub endpoints: Vec<String>,
    pub auth: Auth,
    pub headers: Headers,
    pub channels: Vec<Channel>,
    pub queue_max: usize,
}
