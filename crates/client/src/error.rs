//! Why something did not succeed, and whether it is worth another attempt.

use std::{fmt, time::Duration};

use hyper::{HeaderMap, StatusCode, header::RETRY_AFTER};
use thiserror::Error;
use tickgate_wire::code::{Reconnect, lookup, may_reconnect};

use crate::{
    defect::{Defect, is},
    server_error::ServerError,
};

/// Why a connection or a request failed.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// What was to be sent can't be: a URL, a token or a header that is none. Nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// No connection was made.
    #[error("can't connect: {0}")]
    Unreachable(String),
    /// Nothing came in time: `what` did not happen within `limit`.
    #[error("{what} within {limit:?}")]
    Timeout {
        /// Such as `no answer`.
        what: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// The gateway answered with an HTTP status that is not a success.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The gateway closed the WebSocket.
    #[error(transparent)]
    Closed(Closed),
    /// The connection ended without a Close frame, or before the whole answer came.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The gateway sent something that cannot be read.
    #[error("cannot read what the gateway sent: {0}")]
    Unreadable(String),
    /// There is no token.
    #[error("no token: {0}")]
    Token(String),
    /// The gateway refused a token that was to renew the one of the connection.
    #[error("the token was refused: {0}")]
    TokenRefused(ServerError),
    /// Every channel was refused: the channels and reasons.
    #[error("nothing subscribed: {0}")]
    NothingSubscribed(String),
}

impl Error {
    /// Whether the same attempt would end the same way: something has to be changed first, such as the token.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Invalid(_) | Self::NothingSubscribed(_) => true,
            Self::Refused(refusal) => {
                refusal.status != StatusCode::TOO_MANY_REQUESTS && !refusal.status.is_server_error()
            }
            Self::Closed(closed) => closed.is_final(),
            Self::Unreachable(_)
            | Self::Timeout { .. }
            | Self::Lost(_)
            | Self::Unreadable(_)
            | Self::Token(_)
            | Self::TokenRefused(_) => false,
        }
    }

    /// The code with which the gateway closed or refused the connection.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Closed(closed) => closed.code,
            Self::TokenRefused(error) => Some(error.code),
            _ => None,
        }
        .filter(|_| !is(Defect::NoReasons))
    }

    /// How long the gateway asks to wait before the next attempt; `None` where it names no time.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after(),
            _ => None,
        }
    }
}

/// Why a request has no reply that says that it succeeded.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The gateway refused it: certainly nothing was done.
    #[error(transparent)]
    Refused(ServerError),
    /// It was never sent: certainly nothing was done.
    #[error("not sent: {0}")]
    NotSent(String),
    /// It was sent, and nothing tells whether it was done.
    #[error("the outcome is unknown")]
    Unknown,
}

/// An HTTP answer that is not a success, such as a refused WebSocket handshake.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// 400 and above, or a redirection: none is followed.
    pub status: StatusCode,
    /// The headers of the answer.
    pub headers: HeaderMap,
    /// The body, where it is text: `application/problem+json` from the gateway, anything from a proxy.
    pub body: String,
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused with HTTP {}", self.status)?;
        match self.detail() {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl Refusal {
    /// The sentence of the problem details that says best what is wrong.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        let problem: serde_json::Value = serde_json::from_str(&self.body).ok()?;
        let text = problem["detail"].as_str().or_else(|| problem["title"].as_str());
        text.map(str::to_owned)
    }

    /// The time of `Retry-After`, where it is given in seconds.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
    }
}

/// A Close frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The code; `None` in an empty frame.
    pub code: Option<u16>,
    /// The reason, often empty.
    pub reason: String,
}

impl std::error::Error for Closed {}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(code) = self.code else { return f.write_str("connection closed") };
        let name = lookup(code).map_or("unknown", |code| code.name);
        let mark = if self.reason.is_empty() { "" } else { ": " };
        write!(f, "closed {code} {name}{mark}{}", self.reason)
    }
}

impl Closed {
    /// What it asks for, by the table of codes; without a code, to come back.
    #[must_use]
    pub fn reconnect(&self) -> Reconnect {
        match self.code {
            _ if is(Defect::EveryCodeRetried) => Reconnect::Yes,
            Some(code) if needs_token(code) => Reconnect::WithNewToken,
            Some(code) if !may_reconnect(code) => Reconnect::No,
            _ => Reconnect::Yes,
        }
    }

    fn is_final(&self) -> bool {
        self.reconnect() != Reconnect::Yes
    }
}

fn needs_token(code: u16) -> bool {
    lookup(code).is_some_and(|code| code.reconnect == Reconnect::WithNewToken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(code: u16) -> Error {
        Error::Closed(Closed { code: Some(code), reason: "so".into() })
    }

    #[test]
    fn the_rule_of_the_codes_decides_whether_to_come_back() {
        for code in [1001, 1011, 1012, 1013, 4003, 4100, 4101, 4102, 4103, 4104] {
            assert!(!closed(code).is_final(), "{code}");
        }
        for code in [1000, 1002, 1003, 1007, 1008, 1009, 4001, 4002, 4004, 4500, 4501, 4999] {
            assert!(closed(code).is_final(), "{code}");
        }
        assert!(!Error::Closed(Closed { code: None, reason: String::new() }).is_final());
        assert_eq!(closed(4501).to_string(), "closed 4501 superseded: so");
    }

    #[test]
    fn a_refused_handshake_is_tried_again_when_the_gateway_says_so() {
        let refused = |status: u16| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, "7".parse().unwrap())]);
            let body = r#"{"title":"Busy","detail":"full"}"#.to_owned();
            Error::Refused(Box::new(Refusal { status: status.try_into().unwrap(), headers, body }))
        };
        for status in [429, 500, 503] {
            assert!(!refused(status).is_final(), "{status}");
        }
        for status in [301, 400, 401, 403, 404] {
            assert!(refused(status).is_final(), "{status}");
        }
        assert_eq!(refused(503).retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(refused(503).to_string(), "refused with HTTP 503 Service Unavailable: full");
    }
}
