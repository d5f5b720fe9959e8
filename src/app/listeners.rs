//! The two listeners of a replica, and how many connections each address may have. Accepts no connections itself.

use std::{net::SocketAddr, time::Instant};

use tokio::net::TcpListener;

use super::BuildError;
use crate::{
    config::{Config, Problems, Rate, Server, Tls},
    connection::{accept, address::AddressLimits},
    tls::Acceptor,
};

/// Plain connections of an address beyond `limits.connections_per_address_max`.
const PLAIN_EXTRA: u32 = 32;
/// Extra entries for addresses whose connections are refused.
pub(super) const ADDRESSES_EXTRA: usize = 65_536;

/// The TLS settings of new connections on both listeners.
#[derive(Clone, Debug)]
pub(super) struct Acceptors {
    pub(super) public: Option<Acceptor>,
    pub(super) operations: Option<Acceptor>,
}

impl Acceptors {
    /// # Errors
    /// All unusable certificates and keys.
    pub(super) fn new(server: &Server) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut acceptor = |section: &str, tls: &Option<Tls>| {
            let made = Acceptor::new(tls.as_ref()?);
            made.map_err(|(key, text)| problems.report(format!("server.{section}.{key}"), text)).ok()
        };
        let acceptors = Self { public: acceptor("tls", &server.tls), operations: acceptor("ops_tls", &server.ops_tls) };
        if problems.is_empty() { Ok(acceptors) } else { Err(problems) }
    }

    /// New connections use the settings of `others`. Returns the listeners that have TLS in only one of them.
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

/// One listener: on the configured address, and in development mode also on the other loopback address.
#[derive(Debug)]
pub(super) struct Listeners {
    /// Bound: port 0 has become a free port.
    pub(super) address: SocketAddr,
    asked: TcpListener,
    beside: Option<TcpListener>,
}

impl Listeners {
    pub(super) fn bind(key: &'static str, address: SocketAddr, development: bool) -> Result<Self, BuildError> {
        let failed = |source| BuildError::Listen { key, address, source };
        let asked = accept::bind(address).map_err(failed)?;
        let beside = if development { accept::bind_beside(&asked) } else { None };
        Ok(Self { address: asked.local_addr().map_err(failed)?, asked, beside })
    }

    pub(super) fn all(self) -> impl Iterator<Item = TcpListener> {
        [Some(self.asked), self.beside].into_iter().flatten()
    }
}

/// Limit of non-WebSocket connections per address: as many as WebSockets, so that a reconnect storm passes, plus some
/// that receive a refusal.
pub(super) fn plain_limits(config: &Config) -> AddressLimits {
    let limits = &config.limits;
    let any_rate = Rate { per_second: 0, burst: 0 };
    let addresses_max = limits.connections_max.saturating_add(ADDRESSES_EXTRA);
    let connections_max = match limits.connections_per_address_max {
        0 => 0,
        max => max.saturating_add(PLAIN_EXTRA),
    };
    AddressLimits::new(connections_max, any_rate, addresses_max, Instant::now())
}
