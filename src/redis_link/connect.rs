//! One connection to Redis, made and checked. Never hands out a connection to a server that can't be used.

use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    ProtocolVersion, PushInfo, RedisResult, TlsCertificates, Value,
    aio::MultiplexedConnection,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};

use super::{Failure, Keys, RefusalKind, server::Server, transport};
use crate::{
    config::{self, Access},
    defect::{self, Defect},
};

/// Commands that may wait in a connection's own queue.
const PIPELINE_BUFFER: usize = 1024;
/// Bytes gathered before a write; more than one full pipeline of small publications.
const WRITE_BUFFER: usize = 128 * 1024;

/// A server that answered all questions.
pub(super) struct Established {
    pub(super) connection: MultiplexedConnection,
    pub(super) generation: u64,
    pub(super) server: Server,
}

/// Where Redis is now, with everything but the response time-out.
///
/// # Errors
/// [`Failure::Unreachable`] when address or certificates can't be used.
pub(super) fn connection_info(config: &config::Redis, access: &Access) -> Result<ConnectionInfo, Failure> {
    read_info(config, access).map_err(|error| Failure::of_connecting(&error, false))
}

/// The address for the log: without user and password.
pub(super) fn shown_address(config: &config::Redis) -> String {
    let info = config.access().url.expose().into_connection_info().ok();
    info.map_or_else(|| "unknown".to_owned(), |info| info.addr().to_string())
}

/// The same with the library's error.
pub(super) fn read_info(config: &config::Redis, access: &Access) -> RedisResult<ConnectionInfo> {
    let mut info = access.url.expose().into_connection_info()?;
    if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        // Fails when one is installed already, which is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        if access.authority.is_some() || access.identity.is_some() {
            let root_cert = access.authority.as_ref().map(|authority| authority.as_bytes().to_vec());
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

/// Connects, makes sure that the server is a master of a known version that takes writes, and learns its generation.
/// `push` gets everything that the server sends unasked, and the end of the connection.
pub(super) async fn establish(
    config: &config::Redis,
    keys: &Keys,
    highest_epoch: u64,
    name: &str,
    push: impl Fn(PushInfo) + Send + Sync + 'static,
) -> Result<Established, Failure> {
    let settings = connection_config(config, config.response_timeout).set_push_sender(move |info: PushInfo| {
        push(info);
        Ok::<(), ()>(())
    });
    let info = connection_info(config, &config.access())?;
    let tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
    let connecting = transport::open(&info, &settings, name).await;
    let mut connection = connecting.map_err(|error| Failure::of_connecting(&error, tls))?;
    // For the operator's eyes in CLIENT LIST; not worth a failure where the rights are missing.
    let _ = redis::cmd("CLIENT").arg("SETNAME").arg(name).query_async::<Value>(&mut connection).await;
    check_role(&mut connection).await?;
    let mut server = ask_server(&mut connection).await?;
    if !server.is_supported {
        return Err(Failure::TooOld(server.version));
    }
    let mut generation: u64 = redis::Script::new(include_str!("scripts/generation.lua"))
        .key(keys.generation())
        .arg(&server.run_id)
        .arg(highest_epoch)
        .invoke_async(&mut connection)
        .await?;
    server.has_stored = stored_generation(&mut connection, keys).await? == Some(generation);
    if defect::is(Defect::NoGeneration) {
        generation = 1;
    }
    Ok(Established { connection, generation, server })
}

/// Connects once, and makes sure that the server is a master of a known version. Writes nothing.
///
/// # Errors
/// Why no replica could work with it now.
pub async fn probe(config: &config::Redis) -> Result<(), Failure> {
    let attempt = async {
        let settings = connection_config(config, config.response_timeout);
        let info = connection_info(config, &config.access())?;
        let tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        let connecting = transport::open(&info, &settings, "tickgate-probe").await;
        let mut connection = connecting.map_err(|error| Failure::of_connecting(&error, tls))?;
        check_role(&mut connection).await?;
        let server = ask_server(&mut connection).await?;
        if server.is_supported { Ok(()) } else { Err(Failure::TooOld(server.version)) }
    };
    let bound = config.connect_timeout + config.response_timeout * 4;
    tokio::time::timeout(bound, attempt).await.unwrap_or(Err(Failure::TimedOut))
}

/// Makes sure that the server still has the generation that the connection learned.
pub(super) async fn check_generation(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    server: &Server,
    generation: u64,
) -> Result<(), Failure> {
    let stored = stored_generation(connection, keys).await?;
    if server.keeps(generation, stored) || defect::is(Defect::NoGeneration) {
        return Ok(());
    }
    Err(Failure::Other("redis was emptied".into()))
}

async fn stored_generation(connection: &mut MultiplexedConnection, keys: &Keys) -> RedisResult<Option<u64>> {
    redis::cmd("HGET").arg(keys.generation()).arg("generation").query_async(connection).await
}

/// Makes sure that the connection still leads to a master. Also the probe of a standing link: it finds a dead path by
/// its time-out and a demoted server by its answer.
pub(super) async fn check_role(connection: &mut MultiplexedConnection) -> Result<(), Failure> {
    let role: Value = redis::cmd("ROLE").query_async(connection).await?;
    let Value::Array(parts) = role else { return Err(Failure::Other("unexpected answer to ROLE".into())) };
    match parts.first() {
        Some(Value::BulkString(role)) if role == b"master" => Ok(()),
        Some(Value::SimpleString(role)) if role == "master" => Ok(()),
        _ => Err(Failure::Refused { kind: RefusalKind::ReadOnly, text: "its ROLE is not master".into() }),
    }
}

async fn ask_server(connection: &mut MultiplexedConnection) -> Result<Server, Failure> {
    match redis::cmd("INFO").arg("server").query_async::<String>(connection).await {
        Ok(info) => Ok(Server::parse(&info)),
        Err(error) => match Failure::of(&error) {
            // Without INFO every link counts as a new server: safe, with more compares than needed.
            Failure::Refused { kind, .. } if kind.is_denial() => {
                tracing::warn!("redis denies INFO: every reconnect will count as a change of server");
                Ok(Server::anonymous(uuid::Uuid::new_v4().simple().to_string()))
            }
            failure => Err(failure),
        },
    }
}

/// Tells what of the server's settings is not as the gateway wants it. Silent where CONFIG is denied.
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
            "redis cuts a replica that falls behind by this much: set client-output-buffer-limit pubsub 256mb 64mb 60"
        );
    }
    let node = setting("stream-node-max-bytes").parse::<u64>().unwrap_or(0);
    if node > 1024 || node == 0 {
        tracing::warn!(
            stream_node_max_bytes = node,
            "a stream of one entry takes 4 KB: set stream-node-max-bytes 1024 where there are many users"
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
    fn the_pubsub_limit_is_found_among_the_others() {
        let text = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        assert_eq!(pubsub_hard_limit(text), Some(33_554_432));
        assert_eq!(pubsub_hard_limit(""), None);
    }
}
