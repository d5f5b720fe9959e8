//! One connection to Redis: established and validated. Never returns a connection to an unusable server.

use std::{sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    ProtocolVersion, PushInfo, RedisResult, TlsCertificates, Value,
    aio::MultiplexedConnection,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};

use super::{
    Keys, RedisFailure, RefusalKind,
    primary::{Primary, PrimaryAddress},
    server::{self, ServerInfo, ServerKind},
    transport,
};
use crate::config::{self, Access, Login, ServerAddress};

/// Maximum number of commands in a connection's own queue.
const PIPELINE_BUFFER: usize = 1024;
/// Bytes collected before a write; more than one full pipeline of small publications.
const WRITE_BUFFER: usize = 128 * 1024;

/// A server that passed all checks.
pub(super) struct Established {
    pub(super) connection: MultiplexedConnection,
    pub(super) identity: Arc<str>,
    pub(super) server: ServerInfo,
}

/// The server at `place`, with everything except the response timeout.
///
/// # Errors
/// [`RedisFailure::Unreachable`] if address or certificates are unusable.
pub(super) fn connection_info(
    config: &config::Redis,
    access: &Access,
    place: &PrimaryAddress,
) -> Result<ConnectionInfo, RedisFailure> {
    read_info(config, access, place.as_deref()).map_err(|error| RedisFailure::of_connecting(&error, false))
}

/// A sentinel.
///
/// # Errors
/// [`RedisFailure::Unreachable`] if certificates are unusable.
pub(super) fn sentinel_info(config: &config::Redis, address: &ServerAddress) -> Result<ConnectionInfo, RedisFailure> {
    read_sentinel_info(config, &config.access(), address).map_err(|error| RedisFailure::of_connecting(&error, false))
}

/// The address for the log: without user and password.
pub(super) fn shown_address(config: &config::Redis, primary: &Primary) -> String {
    let access = config.access();
    match (primary.place(), &access.sentinels) {
        (Ok(Some(address)), _) => address.to_string(),
        (_, Some(sentinels)) => sentinels.shown(),
        _ => {
            let info = access.url.expose().into_connection_info().ok();
            info.map_or_else(|| "unknown".to_owned(), |info| info.addr().to_string())
        }
    }
}

/// [`connection_info`] with the library's error. `place`: required if sentinels name the server.
pub(super) fn read_info(
    config: &config::Redis,
    access: &Access,
    place: Option<&ServerAddress>,
) -> RedisResult<ConnectionInfo> {
    let info = match (place, &access.sentinels) {
        (Some(address), Some(sentinels)) => addressed(address, sentinels.tls, &sentinels.server_login)?,
        _ => access.url.expose().into_connection_info()?,
    };
    complete(config, access, info, access.authority.as_ref())
}

/// [`sentinel_info`] with the library's error.
pub(super) fn read_sentinel_info(
    config: &config::Redis,
    access: &Access,
    address: &ServerAddress,
) -> RedisResult<ConnectionInfo> {
    let sentinels = access.sentinels.clone().unwrap_or_default();
    let info = addressed(address, sentinels.tls, &sentinels.login)?;
    complete(config, access, info, sentinels.authority.as_ref().or(access.authority.as_ref()))
}

fn addressed(address: &ServerAddress, tls: bool, login: &Login) -> RedisResult<ConnectionInfo> {
    let (host, port) = (address.host.clone(), address.port);
    let address = match tls {
        true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        false => ConnectionAddr::Tcp(host, port),
    };
    let info = address.into_connection_info()?;
    let mut redis = info.redis_settings().clone();
    if !login.user.is_empty() {
        redis = redis.set_username(&login.user);
    }
    if !login.password.is_empty() {
        redis = redis.set_password(login.password.expose());
    }
    Ok(info.set_redis_settings(redis))
}

/// Adds certificates, timeouts and the protocol.
fn complete(
    config: &config::Redis,
    access: &Access,
    mut info: ConnectionInfo,
    authority: Option<&Arc<str>>,
) -> RedisResult<ConnectionInfo> {
    if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        // Fails if a provider is already installed, which is fine.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        if authority.is_some() || access.identity.is_some() {
            let root_cert = authority.map(|authority| authority.as_bytes().to_vec());
            let client_tls = access.identity.as_ref().map(|identity| ClientTlsConfig {
                client_cert: identity.certificate.as_bytes().to_vec(),
                client_key: identity.key.expose().as_bytes().to_vec(),
            });
            let client = Client::build_with_tls(info, TlsCertificates { client_tls, root_cert })?;
            info = client.get_connection_info().clone();
        }
    }
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(10)).with_interval(Duration::from_secs(3)).with_retries(3);
    let tcp = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive)
        .set_user_timeout(config.canary_timeout.max(config.response_timeout) * 2);
    let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Ok(info.set_tcp_settings(tcp).set_redis_settings(redis))
}

/// The settings of every connection.
pub(super) fn connection_config(config: &config::Redis, response_timeout: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(config.connect_timeout))
        .set_response_timeout(Some(response_timeout))
        .set_pipeline_buffer_size(PIPELINE_BUFFER)
        .set_write_backpressure_boundary(WRITE_BUFFER)
}

/// Connects, and checks that the server is a master with a supported version. `push` receives everything that the
/// server sends unprompted, and the end of the connection.
pub(super) async fn establish(
    config: &config::Redis,
    place: &PrimaryAddress,
    name: &str,
    push: impl Fn(PushInfo) + Send + Sync + 'static,
) -> Result<Established, RedisFailure> {
    let settings = connection_config(config, config.response_timeout).set_push_sender(move |info: PushInfo| {
        push(info);
        Ok::<(), ()>(())
    });
    let info = connection_info(config, &config.access(), place)?;
    let tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
    let connecting = transport::open(&info, &settings, name).await;
    let mut connection = connecting.map_err(|error| RedisFailure::of_connecting(&error, tls))?;
    // Informational, for CLIENT LIST; missing rights are no reason to fail.
    let _ = redis::cmd("CLIENT").arg("SETNAME").arg(name).query_async::<Value>(&mut connection).await;
    let server = ServerInfo::parse(&redis::cmd("INFO").arg("server").query_async::<String>(&mut connection).await?);
    if !server.is_supported {
        return Err(RedisFailure::TooOld(server.version));
    }
    check_mode(server.mode)?;
    let identity = identity(&mut connection).await?;
    Ok(Established { connection, identity, server })
}

/// A node of a cluster refuses what other nodes hold; a sentinel holds nothing.
fn check_mode(mode: ServerKind) -> Result<(), RedisFailure> {
    match mode {
        ServerKind::Standalone => Ok(()),
        ServerKind::Cluster => Err(RedisFailure::WrongMode(
            "the server is a node of a Redis Cluster, which is not supported: use a server with cluster-enabled no",
        )),
        ServerKind::Sentinel => Err(RedisFailure::WrongMode(
            "the address is that of a sentinel: set redis.mode = \"sentinel\" and redis.addresses",
        )),
    }
}

/// Checks that the connection still leads to the same dataset on a master. Also probes an established link: its timeout
/// reveals a dead path, and its response a demoted server or another dataset.
pub(super) async fn check_place(connection: &mut MultiplexedConnection, before: &str) -> Result<(), RedisFailure> {
    if *identity(connection).await? == *before {
        return Ok(());
    }
    Err(RedisFailure::Other("the dataset of redis was replaced".into()))
}

async fn identity(connection: &mut MultiplexedConnection) -> Result<Arc<str>, RedisFailure> {
    let info: String = redis::cmd("INFO").arg("replication").query_async(connection).await?;
    let refused = || RedisFailure::Refused { kind: RefusalKind::ReadOnly, text: "its role is not master".into() };
    server::identity(&info).ok_or_else(refused)
}

/// Replicas with the previous format cannot see what this one writes: they must not run at the same time.
pub(super) async fn check_format(connection: &mut MultiplexedConnection, keys: &Keys) -> Result<(), RedisFailure> {
    let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(connection).await?;
    let now_ms = seconds * 1_000 + micros / 1_000;
    for key in keys.leases_of_the_old_format() {
        let ask = redis::cmd("ZCOUNT").arg(&key).arg(now_ms).arg("+inf").to_owned();
        let running: Result<u64, _> = ask.query_async(connection).await;
        let text = match running.map_err(|error| RedisFailure::of(&error)) {
            Ok(0) => continue,
            Ok(_) => {
                format!("replicas with format 1 hold leases under {key}; this one requires format 2: stop them first")
            }
            Err(failure) if failure.refusal().is_some_and(RefusalKind::is_denial) => {
                format!(
                    "the redis user may not read {key}, so it is unknown whether replicas with format 1 are running"
                )
            }
            // A key of another type does not belong to a replica.
            Err(failure) if failure.refusal() == Some(RefusalKind::WrongType) => continue,
            Err(failure) => return Err(failure),
        };
        return Err(RedisFailure::OtherFormat(text.into()));
    }
    Ok(())
}

/// Warns about server settings that do not fit the gateway. Silent if CONFIG is denied.
pub(super) async fn warn_of_settings(connection: &mut MultiplexedConnection) {
    let names = ["client-output-buffer-limit", "stream-node-max-bytes", "maxmemory-policy", "maxmemory"];
    let mut settings = std::collections::HashMap::<String, String>::new();
    for name in names {
        let Ok(found) =
            redis::cmd("CONFIG").arg("GET").arg(name).query_async::<std::collections::HashMap<_, _>>(connection).await
        else {
            return;
        };
        settings.extend(found);
    }
    let setting = |name: &str| settings.get(name).map(String::as_str).unwrap_or_default();
    if let Some(hard) = pubsub_hard_limit(setting("client-output-buffer-limit"))
        && hard != 0
        && hard < 128 << 20
    {
        tracing::warn!(
            bytes = hard,
            "redis disconnects a replica that falls this far behind: set client-output-buffer-limit pubsub 256mb 64mb \
             60"
        );
    }
    let node = setting("stream-node-max-bytes").parse::<u64>().unwrap_or(0);
    if node > 1024 || node == 0 {
        tracing::warn!(
            stream_node_max_bytes = node,
            "a stream with one entry takes 4 KB: set stream-node-max-bytes 1024 if there are many users"
        );
    }
    let policy = setting("maxmemory-policy");
    if !policy.is_empty() && policy != "noeviction" && setting("maxmemory") != "0" {
        tracing::warn!(policy, "redis may evict streams and leases: set maxmemory-policy noeviction");
    }
}

/// The hard limit in `normal 0 0 0 slave … pubsub 33554432 8388608 60`.
fn pubsub_hard_limit(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().skip_while(|word| *word != "pubsub").nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pubsub_limit_is_parsed() {
        let text = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        assert_eq!(pubsub_hard_limit(text), Some(33_554_432));
        assert_eq!(pubsub_hard_limit(""), None);
    }
}
