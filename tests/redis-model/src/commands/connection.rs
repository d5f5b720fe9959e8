//! Commands about the connection, the server and its channels.

use super::{SYNTAX, count_of, integer, is};
use crate::{
    core::{CommandCaller, CommandResult, Core, DATABASES, ReplicationRole, WrittenEffect},
    resp::RespReply,
};

/// The version that the model reports.
pub(crate) const VERSION: &str = "7.0.15";

pub(super) fn ok(_: &mut Core, _: CommandCaller, _: &[Vec<u8>]) -> CommandResult {
    Ok(RespReply::OK)
}

pub(super) fn ping(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let client = core.clients.get(&call.client);
    if client.is_some_and(|client| !client.resp3 && !client.channels.is_empty()) {
        let echo = words.get(1).cloned().unwrap_or_default();
        return Ok(RespReply::Array(vec![RespReply::text("pong"), RespReply::Bulk(echo)]));
    }
    match words {
        [_] => Ok(RespReply::Status("PONG")),
        [_, echo] => Ok(RespReply::Bulk(echo.clone())),
        _ => Err("ERR wrong number of arguments for 'ping' command".into()),
    }
}

pub(super) fn hello(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let version = words.get(1).map(|word| integer(word)).transpose();
    let version = version.map_err(|_| "ERR Protocol version is not an integer or out of range")?;
    if version.is_some_and(|version| !(2..=3).contains(&version)) {
        return Err("NOPROTO unsupported protocol version".into());
    }
    let role = if core.role == ReplicationRole::Primary { "master" } else { "replica" };
    if let (Some(client), Some(version)) = (core.clients.get_mut(&call.client), version) {
        client.resp3 = version == 3;
    }
    let resp3 = core.clients.get(&call.client).is_some_and(|client| client.resp3);
    let pairs = [
        ("server", RespReply::text("redis")),
        ("version", RespReply::text(VERSION)),
        ("proto", RespReply::Int(if resp3 { 3 } else { 2 })),
        ("id", RespReply::Int(i64::try_from(call.client).unwrap_or(0))),
        ("mode", RespReply::text("standalone")),
        ("role", RespReply::text(role)),
        ("modules", RespReply::Array(Vec::new())),
    ];
    Ok(RespReply::Map(pairs.map(|(name, value)| (RespReply::text(name), value)).into()))
}

/// Any user and password are accepted: [`crate::Refusals`] models missing rights.
pub(super) fn auth(_: &mut Core, _: CommandCaller, _: &[Vec<u8>]) -> CommandResult {
    Ok(RespReply::OK)
}

pub(super) fn select(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let index = integer(&words[1]).map_err(|_| "ERR value is not an integer or out of range")?;
    let index = usize::try_from(index).ok().filter(|index| *index < DATABASES);
    let index = index.ok_or("ERR DB index is out of range")?;
    if let Some(client) = core.clients.get_mut(&call.client) {
        client.db = index;
    }
    Ok(RespReply::OK)
}

pub(super) fn quit(core: &mut Core, call: CommandCaller, _: &[Vec<u8>]) -> CommandResult {
    if let Some(client) = core.clients.get_mut(&call.client) {
        client.closing = true;
    }
    Ok(RespReply::OK)
}

/// `SETNAME`; `SETINFO` was added in 7.2.
pub(super) fn client(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    if let Some(client) = core.clients.get_mut(&call.client) {
        client.name = String::from_utf8_lossy(&words[2]).into_owned();
    }
    Ok(RespReply::OK)
}

pub(super) fn info(core: &mut Core, _: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let mut text = String::new();
    let wants = |section: &str| words.len() == 1 || words[1..].iter().any(|word| is(word, section));
    let identity = &core.identity;
    if wants("server") {
        text +=
            &format!("# Server\r\nredis_version:{VERSION}\r\nredis_mode:standalone\r\nrun_id:{}\r\n", identity.run_id);
    }
    if wants("replication") {
        let role = match &core.role {
            ReplicationRole::Primary => "role:master\r\n".to_owned(),
            ReplicationRole::Replica { host, port } => {
                format!("role:slave\r\nmaster_host:{host}\r\nmaster_port:{port}\r\n")
            }
        };
        let (former, second) = identity.former.clone().map_or(("0".repeat(40), -1), |(id, at)| (id, count_of(at)));
        text += &format!(
            "# Replication\r\n{role}connected_slaves:{}\r\nmaster_failover_state:no-failover\r\nmaster_replid:{}\r\n\
            master_replid2:{former}\r\nmaster_repl_offset:{}\r\nsecond_repl_offset:{second}\r\n",
            core.replicas,
            identity.replid,
            core.history.len()
        );
    }
    Ok(RespReply::Verbatim(text))
}

pub(super) fn role(core: &mut Core, _: CommandCaller, _: &[Vec<u8>]) -> CommandResult {
    let offset = RespReply::Int(count_of(core.history.len()));
    Ok(RespReply::Array(match &core.role {
        ReplicationRole::Primary => vec![RespReply::text("master"), offset, RespReply::Array(Vec::new())],
        ReplicationRole::Replica { host, port } => vec![
            RespReply::text("slave"),
            RespReply::text(&host[..]),
            RespReply::Int((*port).into()),
            RespReply::text("connected"),
            offset,
        ],
    }))
}

/// The settings that the gateway reads.
pub(super) fn config(core: &mut Core, _: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let settings = [
        (
            "client-output-buffer-limit",
            "normal 0 0 0 slave 268435456 67108864 60 pubsub 268435456 67108864 60".to_owned(),
        ),
        ("stream-node-max-bytes", "1024".to_owned()),
        ("stream-node-max-entries", core.node_entries.to_string()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("maxmemory", "0".to_owned()),
    ];
    let found = settings.into_iter().filter(|(name, _)| is(&words[2], name));
    Ok(RespReply::Map(found.map(|(name, value)| (RespReply::text(name), RespReply::text(value))).collect()))
}

pub(super) fn time(core: &mut Core, _: CommandCaller, _: &[Vec<u8>]) -> CommandResult {
    let parts = [core.now_us / 1_000_000, core.now_us % 1_000_000];
    Ok(RespReply::Array(parts.map(|part| RespReply::text(part.to_string())).into()))
}

/// Lagging replicas do not confirm in time: returns the number of replicas that, according to the simulation, have
/// everything.
pub(super) fn wait(core: &mut Core, _: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    if core.role != ReplicationRole::Primary {
        return Err("ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 if a replica is \
            configured to be writable (which is not the default) writes to replicas are just local and are not propagated."
            .into());
    }
    integer(&words[1])?;
    let timeout = integer(&words[2]).map_err(|_| "ERR timeout is not an integer or out of range")?;
    if timeout < 0 {
        return Err("ERR timeout is negative".into());
    }
    Ok(RespReply::Int(count_of(core.replicas)))
}

pub(super) fn wait_aof(_: &mut Core, _: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    // Added in 7.2.
    let args: Vec<_> = words[1..].iter().map(|word| format!("'{}' ", String::from_utf8_lossy(word))).collect();
    let name = String::from_utf8_lossy(&words[0]);
    Err(format!("ERR unknown command '{name}', with args beginning with: {}", args.concat()))
}

pub(super) fn publish(core: &mut Core, _: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let count = core.send(&words[1], &words[2]);
    core.pending.push(WrittenEffect::Publish { channel: words[1].clone(), payload: words[2].clone() });
    Ok(RespReply::Int(count_of(count)))
}

/// The confirmations are pushed, one per channel; there is no other reply.
pub(super) fn subscribe(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let Some(client) = core.clients.get_mut(&call.client) else { return Err(SYNTAX.into()) };
    for channel in &words[1..] {
        client.channels.insert(channel.clone());
        let count = RespReply::Int(count_of(client.channels.len()));
        let parts = vec![RespReply::text("subscribe"), RespReply::text(&channel[..]), count];
        RespReply::Push(parts).write(client.resp3, &mut client.out);
    }
    Ok(RespReply::Array(Vec::new()))
}

pub(super) fn unsubscribe(core: &mut Core, call: CommandCaller, words: &[Vec<u8>]) -> CommandResult {
    let Some(client) = core.clients.get_mut(&call.client) else { return Err(SYNTAX.into()) };
    let named: Vec<_> = if words.len() > 1 { words[1..].to_vec() } else { client.channels.iter().cloned().collect() };
    if named.is_empty() {
        let parts = vec![RespReply::text("unsubscribe"), RespReply::Nil, RespReply::Int(0)];
        RespReply::Push(parts).write(client.resp3, &mut client.out);
    }
    for channel in named {
        client.channels.remove(&channel);
        let count = RespReply::Int(count_of(client.channels.len()));
        let parts = vec![RespReply::text("unsubscribe"), RespReply::Bulk(channel), count];
        RespReply::Push(parts).write(client.resp3, &mut client.out);
    }
    Ok(RespReply::Array(Vec::new()))
}
