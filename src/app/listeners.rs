//! The two doors of a replica, and how many may come through them from one address. Never accepts anybody.

use std::{net::SocketAddr, time::Instant};

use tokio::net::TcpListener;

use super::BuildError;
use crate::{
    config::{Config, Problems, Rate, Server, Tls},
    connection::{accept, address::AddressLimits},
    tls::Acceptor,
};

/// Plain connections of an address beyond `limits.connections_per_address_max`.
const PLAIN_BESIDE: u32 = 32;
/// Addresses that are counted beside those that are connected: whoever only knocks.
pub(super) const ADDRESSES_BESIDE: usize = 65_536;

/// What the connections of both listeners begin with, where they have TLS.
#[derive(Clone, Debug)]
pub(super) struct Acceptors {
    pub(super) public: Option<Acceptor>,
    pub(super) operations: Option<Acceptor>,
}

impl Acceptors {
    /// # Errors
    /// All certificates and keys that can't be used.
    pub(super) fn new(server: &Server) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut acceptor = |section: &str, tls: &Option<Tls>| {
            let made = Acceptor::new(tls.as_ref()?);
            made.map_err(|(key, text)| problems.tell(format!("server.{section}.{key}"), text)).ok()
        };
        let acceptors = Self { public: acceptor("tls", &server.tls), operations: acceptor("ops_tls", &server.ops_tls) };
        if problems.is_empty() { Ok(acceptors) } else { Err(problems) }
    }

    /// Connections that begin from now on are those of `others`. Names the listeners that have TLS in one of them only.
    pub(super) fn take(&self, others: &Self) -> Vec<String> {
        let pairs =
            [("server.tls", &self.public, &others.public), ("server.ops_tls", &self.operations, &others.operations)];
        let mut differing = Vec::new();
        for (section, own, other) in pairs {
            match (own, other) {
                (Some(own), Some(other)) => own.take(other),
                (None, None) => {}
                _ => differing.push(section.to_owned()),
            }
        }
        differing
    }
}

/// One door: where it was asked for, and in development mode on the other loopback address as well.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) asked: TcpListener,
    beside: Option<TcpListener>,
}

impl Listeners {
    pub(super) fn bind(key: &'static str, address: SocketAddr, development: bool) -> Result<Self, BuildError> {
        let asked = accept::bind(address).map_err(|source| BuildError::Listen { key, address, source })?;
        let beside = if development { accept::bind_beside(&asked) } else { None };
        Ok(Self { asked, beside })
    }

    pub(super) fn all(self) -> impl Iterator<Item = TcpListener> {
        [Some(self.asked), self.beside].into_iter().flatten()
    }
}

/// What an address may have of connections that are no WebSockets: as many as of those, so that a storm of reconnects
/// passes, and some to be told that there are too many.
pub(super) fn plain_limits(config: &Config) -> AddressLimits {
    let limits = &config.limits;
    let any_rate = Rate { per_second: 0, burst: 0 };
    let addresses_max = limits.connections_max.saturating_add(ADDRESSES_BESIDE);
    let connections_max = match limits.connections_per_address_max {
        0 => 0,
        max => max.saturating_add(PLAIN_BESIDE),
    };
    AddressLimits::new(connections_max, any_rate, addresses_max, Instant::now())
}
