//! Why something did not succeed.

use std::{fmt, time::Duration};

use hyper::{HeaderMap, StatusCode, header::RETRY_AFTER};
use thiserror::Error;
use tickgate_wire::code::{Reconnect, lookup, may_reconnect};

use crate::{
    defect::{OmittedRule, is},
    server_error::ServerError,
};

/// Why a connection or a request failed.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The input is invalid: a URL, a token or a header. Nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// No connection could be established.
    #[error("cannot connect: {0}")]
    Unreachable(String),
    /// A timeout: `what` did not happen within `limit`.
    #[error("{what} within {limit:?}")]
    Timeout {
        /// Such as `no answer`.
        what: &'static str,
        /// The time limit.
        limit: Duration,
    },
    /// The gateway responded with an HTTP status other than success.
    #[error(transparent)]
    Refused(Box<HttpRefusal>),
    /// The gateway closed the WebSocket.
    #[error(transparent)]
    Closed(Closed),
    /// The connection ended without a Close frame, or before the complete response arrived.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The gateway sent something that cannot be read.
    #[error("cannot read what the gateway sent: {0}")]
    Unreadable(String),
    /// There is no token.
    #[error("no token: {0}")]
    Token(String),
    /// The gateway refused a token during renewal.
    #[error("the token was refused: {0}")]
    TokenRefused(ServerError),
}

impl Error {
    /// The code with which the gateway closed or refused the connection.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Closed(closed) => closed.code,
            Self::TokenRefused(error) => Some(error.code),
            _ => None,
        }
        .filter(|_| !is(OmittedRule::NoReasons))
    }

    /// How long the gateway asks to wait before the next attempt; `None` if it gives no time.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after(),
            _ => None,
        }
    }
}

/// Why a request did not succeed.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The gateway refused it: certainly nothing was done.
    #[error(transparent)]
    Refused(ServerError),
    /// It was never sent: certainly nothing was done.
    #[error("not sent: {0}")]
    NotSent(String),
    /// It was sent, but whether it was executed is unknown.
    #[error("the outcome is unknown")]
    Unknown,
}

/// An HTTP response other than success, such as a refused WebSocket handshake.
#[derive(Clone, Debug)]
pub struct HttpRefusal {
    /// 400 and above, or a redirect: redirects are not followed.
    pub status: StatusCode,
    /// The response headers.
    pub headers: HeaderMap,
    /// The body, if it is text: `application/problem+json` from the gateway, anything from a proxy.
    pub body: String,
}

impl std::error::Error for HttpRefusal {}

impl fmt::Display for HttpRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused with HTTP {}", self.status)?;
        match self.detail() {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl HttpRefusal {
    /// The most specific sentence of the problem details.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        let problem: serde_json::Value = serde_json::from_str(&self.body).ok()?;
        let text = problem["detail"].as_str().or_else(|| problem["title"].as_str());
        text.map(str::to_owned)
    }

    /// The time in `Retry-After`, if given in seconds.
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
    /// The rule for the code; without a code, to reconnect.
    #[must_use]
    pub fn reconnect(&self) -> Reconnect {
        match self.code {
            _ if is(OmittedRule::EveryCodeRetried) => Reconnect::Yes,
            Some(code) if needs_token(code) => Reconnect::WithNewToken,
            Some(code) if !may_reconnect(code) => Reconnect::No,
            _ => Reconnect::Yes,
        }
    }
}

fn needs_token(code: u16) -> bool {
    lookup(code).is_some_and(|code| code.reconnect == Reconnect::WithNewToken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(code: impl Into<Option<u16>>) -> Closed {
        Closed { code: code.into(), reason: "so".into() }
    }

    #[test]
    fn the_rule_of_the_codes_decides_whether_to_reconnect() {
        for code in [1001, 1011, 1012, 1013, 4003, 4100, 4101, 4102, 4103, 4104, 4499] {
            assert_eq!(closed(code).reconnect(), Reconnect::Yes, "{code}");
        }
        for code in [1000, 1002, 1003, 1007, 1008, 1009, 4002, 4004, 4500, 4501, 4999] {
            assert_eq!(closed(code).reconnect(), Reconnect::No, "{code}");
        }
        assert_eq!(closed(4001).reconnect(), Reconnect::WithNewToken);
        assert_eq!(closed(None).reconnect(), Reconnect::Yes);
        assert_eq!(Error::Closed(closed(4501)).to_string(), "closed 4501 superseded: so");
        assert_eq!(Error::Closed(closed(4501)).code(), Some(4501));
    }

    #[test]
    fn a_refused_handshake_says_why_and_when_to_retry() {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, "7".parse().unwrap())]);
        let body = r#"{"title":"Busy","detail":"full"}"#.to_owned();
        let error = Error::Refused(Box::new(HttpRefusal { status: StatusCode::SERVICE_UNAVAILABLE, headers, body }));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(error.to_string(), "refused with HTTP 503 Service Unavailable: full");
    }
}
