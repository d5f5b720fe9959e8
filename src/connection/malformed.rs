//! What can be wrong with a request for a connection, and the HTTP answer to each. Never quotes the request: it may hold
//! a token.

use thiserror::Error;
use tickgate_wire::code::ProblemKind;

/// What is wrong with the request itself. The text says what would be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    #[error("a WebSocket begins with a GET")]
    Method,
    #[error("a WebSocket needs HTTP/1.1")]
    HttpVersion,
    #[error("this is a WebSocket endpoint: send `Upgrade: websocket` and `Connection: Upgrade`")]
    NotAnUpgrade,
    #[error("only version 13 of the WebSocket protocol is spoken here")]
    Version,
    #[error("Sec-WebSocket-Key must be 16 bytes in base64")]
    Key,
    #[error("a WebSocket request has no body")]
    Body,
    #[error("offer the sub-protocol `tickgate.v1`, once, with at most one `bearer.<token>` beside it, or none at all")]
    Protocols,
    #[error("a header is repeated or not plain text: {0}")]
    Header(&'static str),
    #[error("a query parameter is repeated, wrongly encoded, or not what it should be: {0}")]
    Parameter(&'static str),
}

impl Malformed {
    /// The kind of the answer.
    #[must_use]
    pub const fn kind(self) -> ProblemKind {
        match self {
            Self::Method => ProblemKind::MethodNotAllowed,
            Self::HttpVersion | Self::Version => ProblemKind::UpgradeRequired,
            _ => ProblemKind::InvalidMessage,
        }
    }

    /// The parameter or header that is wrong, where it is one.
    #[must_use]
    pub const fn field(self) -> Option<&'static str> {
        match self {
            Self::Header(name) | Self::Parameter(name) => Some(name),
            _ => None,
        }
    }

    /// Headers that the answer must have: what would be accepted.
    #[must_use]
    pub const fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Method => &[("allow", "GET")],
            Self::HttpVersion | Self::Version => &[("upgrade", "websocket"), ("sec-websocket-version", "13")],
            _ => &[],
        }
    }
}
