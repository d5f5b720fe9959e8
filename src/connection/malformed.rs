//! Errors in the request for a connection, and the HTTP response for each. Never quotes the request, which may contain
//! a token.

use thiserror::Error;
use tickgate_wire::code::ProblemKind;

/// What is wrong with the request. The text states what is required.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MalformedRequest {
    /// Not GET.
    #[error("a WebSocket handshake must be a GET request")]
    Method,
    /// Not HTTP/1.1.
    #[error("a WebSocket handshake requires HTTP/1.1")]
    HttpVersion,
    /// `Connection` and `Upgrade` do not request a WebSocket.
    #[error("this is a WebSocket endpoint: send `Upgrade: websocket` and `Connection: Upgrade`")]
    NotAnUpgrade,
    /// Not version 13 of the WebSocket protocol.
    #[error("only WebSocket version 13 is supported")]
    Version,
    /// `Sec-WebSocket-Key` is not 16 bytes in base64, or is missing or repeated.
    #[error("Sec-WebSocket-Key must be 16 bytes in base64")]
    Key,
    /// The request has a body.
    #[error("a WebSocket handshake must not have a body")]
    Body,
    /// `Sec-WebSocket-Protocol` is not a list of distinct tokens.
    #[error("offer the sub-protocol `tickgate.v1` once, with at most one `bearer.<token>`, or no sub-protocol")]
    Protocols,
    /// This header is invalid or repeated.
    #[error("a header is repeated or not plain text: {0}")]
    Header(&'static str),
    /// This query parameter is invalid or repeated.
    #[error("a query parameter is repeated, wrongly encoded, or invalid: {0}")]
    Parameter(&'static str),
}

impl MalformedRequest {
    /// The kind of problem.
    #[must_use]
    pub const fn kind(self) -> ProblemKind {
        match self {
            Self::Method => ProblemKind::MethodNotAllowed,
            Self::HttpVersion | Self::Version => ProblemKind::UpgradeRequired,
            _ => ProblemKind::InvalidMessage,
        }
    }

    /// The parameter or header that is wrong, if it is a single one.
    #[must_use]
    pub const fn field(self) -> Option<&'static str> {
        match self {
            Self::Header(name) | Self::Parameter(name) => Some(name),
            _ => None,
        }
    }

    /// Headers that the response must have: the accepted values.
    #[must_use]
    pub const fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Method => &[("allow", "GET")],
            Self::HttpVersion | Self::Version => &[("upgrade", "websocket"), ("sec-websocket-version", "13")],
            _ => &[],
        }
    }
}
