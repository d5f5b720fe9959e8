//! A client that wants a connection: what it is called in logs, and where it comes from. Never a token, a path or a query.

use std::{fmt, net::IpAddr};

use hyper::{HeaderMap, header};
use uuid::Uuid;

/// Characters of a foreign origin that are logged.
const ORIGIN_MAX: usize = 100;

/// The name of one connection, 16 hexadecimal digits: no two of a cluster have the same. Independent of the session, which
/// is a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(u64);

impl ConnectionId {
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4().as_u64_pair().0)
    }

    /// Whether it is written so.
    #[must_use]
    pub fn is(self, text: &str) -> bool {
        is_connection_id(text) && u64::from_str_radix(text, 16) == Ok(self.0)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Whether a text could be the name of a connection.
#[must_use]
pub fn is_connection_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A client that wants a connection.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// What the connection is called in logs and to its client.
    pub connection_id: ConnectionId,
    /// Where it comes from, behind trusted proxies.
    pub address: IpAddr,
}

/// The reason for refusing a foreign page, with its origin: an operator may have to allow it.
pub(super) fn foreign_origin(headers: &HeaderMap) -> String {
    let origin = headers.get(header::ORIGIN).map(|origin| String::from_utf8_lossy(origin.as_bytes()));
    let shown: String = origin.unwrap_or_default().chars().take(ORIGIN_MAX).collect();
    format!("Origin not allowed: {shown:?}")
}
