//! The settings of the replicas, the users and their channels, and the Redis server. Never acts.

use std::sync::Arc;

use tickgate_wire::model::Class;

use crate::{record::TestedChannel, support::redis::RedisServer};

/// Overrides of the defaults: shorter intervals, and an endpoint with channels of every class.
pub const SETTINGS: &str = r#"
[server]
mode = "development"
listen = "127.0.0.1:0"
ops_listen = "127.0.0.1:0"
workers = 2

[session]
heartbeat_interval = "3s"
heartbeat_timeout = "3s"
write_timeout = "3s"

[limits]
connections_per_user_max = 50
# What those miss who read nothing.
replay_bytes_max = 67108864
# All clients come from one address.
replays_per_address_bytes_max = 1073741824
replays_bytes_max = 1073741824
handshakes_per_address = { per_second = 0, burst = 0 }

[hub]
linger = "1s"

[drain]
delay = "300ms"
spread = "1s"

[feeds.synthetic]
enabled = "off"

[log]
filter = "info,tickgate=debug"

[[topics]]
pattern = "brief"
class = "reliable"
retain_max = 20

[[topics]]
pattern = "bulk"
class = "reliable"
retain_max = 10000

[[topics]]
pattern = "replicated"
class = "reliable"
retain_max = 10000
wait_replicas = 1

[[profiles]]
name = "chaos"
path = "/ws/chaos"
token = "required"
channels = [
    { name = "orders", scope = "private" },
    { name = "risk_alerts", scope = "private" },
    { name = "bot_status", scope = "private" },
    { name = "portfolio", scope = "private" },
    { name = "ticker:*" },
    { name = "trades:*" },
    { name = "position_update" },
    { name = "system_log" },
    { name = "brief" },
    { name = "bulk" },
    { name = "replicated" },
]
"#;

const USERS: usize = 3;

/// The parameters of a client that is created for one purpose.
pub struct Casting<'a> {
    pub name: &'a str,
    pub user: &'a str,
    /// It takes over its session when it reconnects.
    pub takes_over: bool,
    pub channels: Vec<TestedChannel>,
    pub small_buffers: bool,
    /// Connects directly to the replicas, without the proxies' buffers.
    pub direct: bool,
    /// The only replica that it uses.
    pub only: Option<usize>,
    /// The replica that it tries first.
    pub prefers: Option<usize>,
}

impl<'a> Casting<'a> {
    /// A client with cursors that uses every replica.
    pub fn usual(name: &'a str, user: &'a str, channels: Vec<TestedChannel>) -> Self {
        let (small_buffers, direct, only, prefers) = (false, false, None, None);
        Self { name, user, takes_over: false, channels, small_buffers, direct, only, prefers }
    }
}

/// The shipped Redis with its settings and users. Acknowledged writes survive a kill.
pub fn durable() -> RedisServer {
    server(&[])
}

/// The shipped Redis with other persistence.
pub fn server(persistence: &[&str]) -> RedisServer {
    // A server that follows another one need not wait for further replicas.
    let arguments = [&["--repl-diskless-sync-delay", "0"], persistence].concat();
    tokio::task::block_in_place(|| RedisServer::shipped(&arguments))
}

pub fn users() -> Vec<Arc<str>> {
    (0..USERS).map(|number| format!("user{number}").into()).collect()
}

/// The channels of one client of the audience.
pub fn channels_of(user: &Arc<str>) -> Vec<TestedChannel> {
    let mut channels = vec![
        TestedChannel::private("orders", user, Class::Reliable),
        TestedChannel::private("risk_alerts", user, Class::Reliable),
        TestedChannel::private("bot_status", user, Class::Reliable),
        TestedChannel::private("portfolio", user, Class::State),
    ];
    channels.extend(public_channels());
    channels
}

fn public_channels() -> [TestedChannel; 5] {
    [
        TestedChannel::public("ticker:BTC", Class::State),
        TestedChannel::public("ticker:ETH", Class::State),
        TestedChannel::public("trades:BTC", Class::Event),
        TestedChannel::public("system_log", Class::Event),
        TestedChannel::public("position_update", Class::Reliable),
    ]
}

/// The channels that are published to.
pub fn channels_of_all() -> Vec<TestedChannel> {
    let mut channels: Vec<_> = users().iter().flat_map(|user| channels_of(user).into_iter().take(4)).collect();
    channels.extend(public_channels());
    channels
}
