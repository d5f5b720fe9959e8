//! A client's attempt to connect: its id in logs, and its address. Never contains a token, a path or a query.

use std::{fmt, net::IpAddr};

use hyper::{HeaderMap, header};
use uuid::Uuid;

/// Maximum number of logged characters of a foreign origin.
const ORIGIN_MAX: usize = 100;

/// The id of one connection, 16 hexadecimal digits, unique in the cluster. Independent of the session id, which is
/// secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// A new id of 64 random bits.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4().as_u64_pair().0)
    }

    /// Whether `text` is this id in its canonical form.
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

/// Whether a text has the form of a connection id.
#[must_use]
pub fn is_connection_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A client's attempt to connect.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// The connection's id in logs and in its welcome.
    pub connection_id: ConnectionId,
    /// The client's address, behind trusted proxies.
    pub address: IpAddr,
}

/// The reason for refusing a foreign page, with its origin, which an operator may have to allow.
pub(super) fn foreign_origin(headers: &HeaderMap) -> String {
    let origin = headers.get(header::ORIGIN).map(|origin| String::from_utf8_lossy(origin.as_bytes()));
    let shown: String = origin.unwrap_or_default().chars().take(ORIGIN_MAX).collect();
    format!("Origin not allowed: {shown:?}")
}
