//! What the configuration means, typed and checked. Never read elsewhere than through [`Config`].
//!
//! `raw` is what was written (file, environment, flags); everything here is what it means. All problems are told at
//! once, before a port is bound. Secrets print as `***`.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use crate::model::{Pattern, TopicRules};

/// Everything a replica needs to know before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Development mode: loopback only, generated secrets, open ingest.
    pub development: bool,
    pub server: Server,
    pub redis: Option<Redis>,
    pub auth: Auth,
    pub profiles: Vec<Arc<Profile>>,
    pub topics: Arc<TopicRules>,
    pub limits: Limits,
    pub session: Session,
    pub hub: Hub,
    pub drain: Drain,
    pub readiness: Readiness,
    pub feeds: Feeds,
    pub log: Log,
}

/// Listeners and who may reach them.
#[derive(Clone, Debug)]
pub struct Server {
    /// Public listener: sockets, SSE, health.
    pub listen: SocketAddr,
    /// Operations listener: metrics, HTTP API.
    pub ops_listen: SocketAddr,
    /// Worker threads; 0 means one per core.
    pub workers: usize,
    /// Origins that browsers may come from; `*` alone allows all.
    pub allowed_origins: Vec<String>,
    /// Peers whose `X-Forwarded-For` is believed (CIDR notation).
    pub trusted_proxies: Vec<Cidr>,
    /// The time a client has to send its request head.
    pub header_timeout: Duration,
    /// Largest request head, in bytes.
    pub header_bytes_max: usize,
}

/// An address range, `10.0.0.0/8` or `::1/128`; a bare address is itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub address: std::net::IpAddr,
    pub prefix_len: u8,
}

impl Cidr {
    /// Whether `address` lies in the range. An IPv4 address mapped into IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: std::net::IpAddr) -> bool {
        use std::net::IpAddr::{V4, V6};
        match (self.address, address.to_canonical()) {
            (V4(net), V4(ip)) => {
                let shift = 32 - u32::from(self.prefix_len.min(32));
                shift == 32 || (u32::from(net) ^ u32::from(ip)) >> shift == 0
            }
            (V6(net), V6(ip)) => {
                let shift = 128 - u32::from(self.prefix_len.min(128));
                shift == 128 || (u128::from(net) ^ u128::from(ip)) >> shift == 0
            }
            _ => false,
        }
    }
}

/// A string that never shows itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that uses it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Where Redis is and how it is used.
#[derive(Clone, Debug)]
pub struct Redis {
    /// `redis://` or `rediss://`, with user and password.
    pub url: Secret,
    /// Put before every key and channel. Versioned.
    pub prefix: String,
    /// Connections of the pool for history reads and housekeeping: the admission limit of a reconnect herd.
    pub pool_size: usize,
    /// How long a history read may wait for a connection of the pool.
    pub pool_wait_timeout: Duration,
    pub connect_timeout: Duration,
    /// How long a command may take before its outcome counts as unknown.
    pub response_timeout: Duration,
    /// Time between two canaries (and two PINGs of the command link).
    pub canary_interval: Duration,
    /// A canary not seen for so long tears the pub/sub link down.
    pub canary_timeout: Duration,
    /// Quiet topics are compared with their streams so often.
    pub compare_interval: Duration,
    /// How long the result of a publication with `msg_id` is remembered.
    pub dedupe_ttl: Duration,
    /// PEM file of an own certificate authority for `rediss://`.
    pub ca_file: Option<PathBuf>,
}

/// Who may connect and publish.
#[derive(Clone, Debug)]
pub struct Auth {
    /// Current and previous HS256 secrets.
    pub hs256_secrets: Vec<Secret>,
    /// PEM files of public keys.
    pub public_keys: Vec<PublicKey>,
    /// Fixed address of a key set.
    pub jwks: Option<Jwks>,
    pub issuer: Option<String>,
    pub audience: Option<String>,
    /// Clock difference forgiven.
    pub leeway: Duration,
    /// Longest token, in bytes.
    pub token_bytes_max: usize,
    /// How long before its end a token's client is warned.
    pub expiry_warning: Duration,
    /// Deadline for the first `auth` message.
    pub auth_timeout: Duration,
    /// Life of a single-use ticket.
    pub ticket_ttl: Duration,
    /// Keys of the HTTP API (and of `/ws/ingest`).
    pub api_keys: Vec<Secret>,
}

#[derive(Clone, Debug)]
pub struct PublicKey {
    pub algorithm: Algorithm,
    pub path: PathBuf,
    /// The `kid` it answers to; `None`: any token of its algorithm.
    pub kid: Option<String>,
}

/// Asymmetric signature algorithms a key can be pinned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Rs256,
    Es256,
    EdDsa,
}

#[derive(Clone, Debug)]
pub struct Jwks {
    pub url: String,
    pub refresh_interval: Duration,
}

/// One configured WebSocket endpoint.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Name in logs and metrics.
    pub name: String,
    /// `/ws/trading`, or with one parameter: `/ws/backtest/{run_id}`.
    pub path: String,
    pub dialect: Dialect,
    pub token: TokenRule,
    /// Close code of a refused token (4001 or 1008).
    pub refusal_code: u16,
    /// Text of `connection_established`.
    pub welcome: String,
    pub channels: Vec<Channel>,
    /// Topic that `command` messages are stored in, may hold `{param}`; `None`: no commands here.
    pub commands_topic: Option<String>,
    /// Channel name prefixes that the seeds' `subscribe_symbol`, `subscribe_ticker` … stand for.
    pub symbol_verbs: Vec<SymbolVerb>,
}

/// The wire form of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// JSON commands and pushes.
    Json,
    /// `SocketMessage` envelopes of producers (seeds 000 and 001).
    Envelope,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRule {
    /// Refused without a valid token.
    Required,
    /// Anonymous without a token; a token that is given must be valid.
    Optional,
    /// Public: a token is not looked at.
    Ignored,
    /// A JWT with a `publish` right, or an API key; anyone in development mode.
    Publisher,
}

/// One channel, or a family of channels, that an endpoint offers.
#[derive(Clone, Debug)]
pub struct Channel {
    /// What the client calls it.
    pub pattern: Pattern,
    pub scope: Scope,
    /// Subscribed when the connection opens (only patterns without `*`).
    pub on_connect: bool,
    /// Needs an identity with the channel in its `channels` claim, whatever the endpoint's token rule.
    pub restricted: bool,
}

/// Which topic a channel stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The topic of the same name.
    Public,
    /// The connected user's private channel of that name.
    Private,
    /// The topic that the template gives with the path's parameter filled in, such as `run:{run_id}`.
    Path(String),
}

/// `subscribe_<verb>` with `symbols` means channels `<prefix><symbol>`.
#[derive(Clone, Debug)]
pub struct SymbolVerb {
    pub verb: String,
    pub prefix: String,
}

/// Bounds. Each refusal has its code.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections of this replica.
    pub connections_max: usize,
    /// Per user over all replicas (seed 002: 5).
    pub connections_per_user_max: u32,
    pub over_limit: OverLimit,
    /// Open connections of one address on this replica. 0: no limit.
    pub connections_per_address_max: u32,
    /// Handshakes per second of one address, and the burst.
    pub handshakes_per_address: Rate,
    /// Largest message of a client, in bytes.
    pub message_bytes_max: usize,
    /// Largest body of the HTTP API, in bytes.
    pub body_bytes_max: usize,
    /// Largest payload of one publication, in bytes.
    pub payload_bytes_max: usize,
    pub json_depth_max: usize,
    /// Inbound messages of one connection.
    pub messages_per_connection: Rate,
    /// Inbound messages of one user on this replica.
    pub messages_per_user: Rate,
    /// Rate violations within a minute that close the connection.
    pub rate_offences_max: u32,
    /// Invalid messages within a minute that close the connection.
    pub invalid_messages_max: u32,
    pub subscriptions_max: usize,
    /// Messages an outbox holds before the class's policy acts (seed 002: 100).
    pub outbox_messages_max: usize,
    pub outbox_bytes_max: usize,
    /// Entries one resume may fetch from a stream.
    pub replay_entries_max: usize,
    pub replay_bytes_max: usize,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

/// What happens to a connection over the user's limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverLimit {
    /// The new one is refused (4003).
    Refuse,
    /// The oldest one gives way (4501).
    EvictOldest,
}

/// Life of connections and sessions.
#[derive(Clone, Debug)]
pub struct Session {
    /// Silence after which a heartbeat and a ping are sent (seeds: 30 s).
    pub heartbeat_interval: Duration,
    /// A client that answers neither within this time after the ping is closed (4101).
    pub heartbeat_timeout: Duration,
    /// A socket that takes nothing for so long is closed (4102).
    pub write_timeout: Duration,
    /// How long a session can be resumed (seed 002: 60 s).
    pub resume_ttl: Duration,
    /// Connections older than this are asked to reconnect (4104); 0: never.
    pub age_max: Duration,
    /// Lease of a replica: after a kill its sessions are swept this much later.
    pub replica_ttl: Duration,
    /// Lease of a session in its user's set.
    pub session_ttl: Duration,
}

/// Fan-out.
#[derive(Clone, Debug)]
pub struct Hub {
    /// Recent messages kept per followed topic.
    pub ring_messages_max: usize,
    pub ring_bytes_max: usize,
    /// How long a topic stays followed after its last subscriber left.
    pub linger: Duration,
}

#[derive(Clone, Debug)]
pub struct Drain {
    /// Not ready, still accepting: the time load balancers need to notice.
    pub delay: Duration,
    /// Connections are closed in waves over this time.
    pub spread: Duration,
}

#[derive(Clone, Debug)]
pub struct Readiness {
    /// Whether a Redis outage makes the replica not ready.
    pub redis_required: bool,
    /// How long the outage may last before.
    pub redis_grace: Duration,
}

#[derive(Clone, Debug)]
pub struct Feeds {
    pub synthetic: Option<Synthetic>,
}

/// A seeded random walk, so that a first run shows something alive.
#[derive(Clone, Debug)]
pub struct Synthetic {
    pub symbols: Vec<String>,
    /// Time between two ticks of one symbol.
    pub interval: Duration,
    pub seed: u64,
}

#[derive(Clone, Debug)]
pub struct Log {
    /// `tracing` filter, such as `info` or `tickgate=debug`.
    pub filter: String,
    pub json: bool,
}
