//! What can be wrong with a request for a connection, and the HTTP answer to each. Never quotes the request: it may hold
//! a token.

use hyper::{
    HeaderMap, StatusCode,
    header::{self, HeaderValue},
};
use thiserror::Error;

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
    /// The HTTP status of the answer.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::HttpVersion | Self::Version => StatusCode::UPGRADE_REQUIRED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// Headers that the answer must have: what would be accepted.
    #[must_use]
    pub fn headers(self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        match self {
            Self::Method => {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
            }
            Self::HttpVersion | Self::Version => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            _ => {}
        }
        headers
    }
}
