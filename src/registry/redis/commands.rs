//! The registry's commands for a Redis server: its scripts, the commands of a batch's steps, and the responses.
//!
//! Calls scripts by EVALSHA, and loads them again if a server lost them.

use redis::{Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, Script, Value};
use tickgate_wire::model::{SessionId, UserId};

use super::{
    RedisRegistryShared,
    batch::{Broadcast, CommandAnswer, Index, RecordWrite, RegistryCommand},
    message::{KEPT, KEPT_MIN, SENT},
    owner::{Owner, member},
    times::millis,
};
use crate::{
    clock,
    redis_link::{RedisCommand, RedisFailure, RedisLink},
    registry::{UserPlaces, revocations::Revocation, standings::UserStanding},
};

macro_rules! scripts {
    ($($name:ident),*) => {
        /// All scripts, hashed once.
        #[derive(Debug)]
        pub(super) struct Scripts {
            $(pub $name: Script),*
        }

        impl Scripts {
            /// Their texts, to be loaded into every server.
            pub(super) const TEXTS: &[&str] = &[$(include_str!(concat!("scripts/", stringify!($name), ".lua"))),*];

            pub(super) fn new() -> Self {
                Self { $($name: Script::new(include_str!(concat!("scripts/", stringify!($name), ".lua")))),* }
            }
        }
    };
}
scripts!(admit, bury, cluster, hold, readmit, record, release, replica, revoke, standing, tell, want);

/// A call of the script, without its arguments.
pub(super) fn call(script: &Script, keys: &[&str]) -> Cmd {
    let mut cmd = redis::cmd("EVALSHA");
    cmd.arg(script.get_hash()).arg(keys.len()).arg(keys);
    cmd
}

/// Runs one command on the link's command connection.
pub(super) async fn ask<T: FromRedisValue>(link: &RedisLink, cmd: &Cmd) -> Result<T, RedisFailure> {
    let mut commands = link.command()?;
    let _timer = link.time(RedisCommand::Registry);
    cmd.query_async(&mut commands).await.map_err(|error| failed(link, &error))
}

/// Runs a pipeline on the link's command connection.
pub(super) async fn ask_all<T: FromRedisValue>(link: &RedisLink, pipeline: &Pipeline) -> Result<T, RedisFailure> {
    let mut commands = link.command()?;
    let _timer = link.time(RedisCommand::Registry);
    pipeline.query_async(&mut commands).await.map_err(|error| failed(link, &error))
}

/// Runs a pipeline and ignores its responses.
pub(super) async fn tell_all(link: &RedisLink, pipeline: &Pipeline) -> Result<(), RedisFailure> {
    if pipeline.is_empty() {
        return Ok(());
    }
    ask_all(link, pipeline).await
}

/// Runs one call of a script, loading it first if Redis lost it.
pub(super) async fn run<T: FromRedisValue>(link: &RedisLink, script: &Script, call: &Cmd) -> Result<T, RedisFailure> {
    run_for(RedisCommand::Registry, link, script, call).await
}

/// Runs a call of a script, timed as this kind of command.
pub(super) async fn run_for<T: FromRedisValue>(
    kind: RedisCommand,
    link: &RedisLink,
    script: &Script,
    call: &Cmd,
) -> Result<T, RedisFailure> {
    let mut commands = link.command()?;
    let _timer = link.time(kind);
    let mut answer = call.query_async(&mut commands).await;
    if answer.as_ref().is_err_and(|error| RedisFailure::of(error).is_no_script()) {
        script.load_async(&mut commands).await.map_err(|error| failed(link, &error))?;
        answer = call.query_async(&mut commands).await;
    }
    answer.map_err(|error| failed(link, &error))
}

/// Classifies a failure and reports it to the link.
pub(super) fn failed(link: &RedisLink, error: &RedisError) -> RedisFailure {
    let failure = RedisFailure::of(error);
    link.report(&failure);
    failure
}

/// The scripts' form of the time at which a token was issued, in milliseconds.
pub(super) fn issued_text(issued_ms: Option<u64>) -> String {
    issued_ms.map(|ms| ms.to_string()).unwrap_or_default()
}

/// The call that stores a revocation for its remaining time.
pub(super) fn revoke(inner: &RedisRegistryShared, user: &UserId, revocation: Revocation) -> Cmd {
    let life_ms = revocation.until_ms.saturating_sub(clock::unix_ms()).max(1);
    let mut cmd = call(&inner.scripts.revoke, &[&inner.keys().user_revoked(user)]);
    cmd.arg(revocation.at_ms).arg(life_ms);
    cmd
}

/// The call that stores a standing for its remaining time.
pub(super) fn keep_standing(inner: &RedisRegistryShared, user: &UserId, standing: UserStanding) -> Cmd {
    let UserStanding { inactive, until_ms, sent } = standing;
    let life_ms = until_ms.saturating_sub(clock::unix_ms()).max(1);
    let mut cmd = call(&inner.scripts.standing, &[&inner.keys().user_standing(user)]);
    cmd.arg(sent).arg(if inactive { "inactive" } else { "active" }).arg(life_ms);
    cmd
}

/// The command that stores a message for replicas that are disconnected.
pub(super) fn keep(inner: &RedisRegistryShared, field: &str, message: &str, sent: u64) -> Cmd {
    let mut cmd = redis::cmd("XADD");
    cmd.arg(inner.keys().controls()).arg("MAXLEN").arg("~").arg(KEPT_MIN).arg("*");
    cmd.arg(field).arg(message).arg(SENT).arg(sent);
    cmd
}

/// A command from its parts.
fn command(words: &[&str]) -> Cmd {
    let mut cmd = redis::cmd(words[0]);
    cmd.arg(&words[1..]);
    cmd
}

/// The commands of the steps.
pub(super) fn pipeline(inner: &RedisRegistryShared, steps: &[RegistryCommand]) -> Pipeline {
    let mut pipeline = Pipeline::new();
    for step in steps {
        pipeline.add_command(encode(inner, step));
    }
    pipeline.ignore_errors();
    pipeline
}

fn encode(inner: &RedisRegistryShared, step: &RegistryCommand) -> Cmd {
    let (keys, times, scripts) = (inner.keys(), &inner.lifetimes, &inner.scripts);
    let own = &inner.local.replica;
    let index = |index: &Index| match index {
        Index::Current => keys.replica_sessions(own),
        Index::Next => keys.replica_sessions_next(own),
    };
    let sessions_of = |places: &UserPlaces| keys.user_sessions(&places.user, places.apart.as_deref());
    match step {
        RegistryCommand::Index(which, slots) => {
            let mut cmd = redis::cmd("HSET");
            cmd.arg(index(which));
            for (session, slot) in slots {
                cmd.arg(session.to_string()).arg(slot);
            }
            cmd
        }
        RegistryCommand::KeepIndex(which) => expire(&index(which), times.index()),
        RegistryCommand::Unindex(sessions) => {
            let mut cmd = redis::cmd("HDEL");
            cmd.arg(index(&Index::Current));
            for session in sessions {
                cmd.arg(session.to_string());
            }
            cmd
        }
        RegistryCommand::DropIndex(which) => command(&["UNLINK", &index(which)]),
        RegistryCommand::ReplaceIndex => command(&["RENAME", &index(&Index::Next), &index(&Index::Current)]),
        RegistryCommand::Leave { places, session, stamp } => {
            command(&["ZREM", &sessions_of(places), &member(*stamp, own, *session)])
        }
        RegistryCommand::Extend { places, session, stamp } => {
            let ends = (inner.now_ms() + times.session).to_string();
            command(&["ZADD", &sessions_of(places), "XX", "CH", &ends, &member(*stamp, own, *session)])
        }
        RegistryCommand::KeepMembers(places) => expire(&sessions_of(places), times.members()),
        RegistryCommand::Readmit { places, session, stamp, issued_ms } => {
            readmit(inner, places, *session, (*stamp, *issued_ms))
        }
        RegistryCommand::Claim(write) => {
            let value = format!("{} {}", Owner::new(write.stamp, own), write.record);
            let life = record_life(inner, write).to_string();
            command(&["SET", &keys.session(write.session), &value, "PX", &life, "NX"])
        }
        RegistryCommand::Write(write) => {
            let mut cmd = call(&scripts.record, &[&keys.session(write.session)]);
            cmd.arg(Owner::new(write.stamp, own).to_string()).arg(&*write.record).arg(record_life(inner, write));
            cmd
        }
        RegistryCommand::KeepRecord(session) => expire(&keys.session(*session), times.record()),
        RegistryCommand::EndRecord { session, stamp, stays } => {
            let mut cmd = call(&scripts.record, &[&keys.session(*session)]);
            cmd.arg(Owner::new(*stamp, own).to_string()).arg("").arg(if *stays { times.resume } else { 0 });
            cmd
        }
        RegistryCommand::Tell(replica, message) => command(&["PUBLISH", &keys.control(replica), message]),
        RegistryCommand::Revoke { user, revocation } => revoke(inner, user, *revocation),
        RegistryCommand::Stand { user, standing } => keep_standing(inner, user, *standing),
        RegistryCommand::TellAll(Broadcast { message, field, kept, sent }) => {
            let mut cmd = call(&scripts.tell, &[&keys.controls()]);
            cmd.arg(keys.control_all()).arg(message).arg(field).arg(kept).arg(sent).arg(KEPT_MIN).arg(millis(KEPT));
            cmd
        }
    }
}

fn readmit(
    inner: &RedisRegistryShared,
    places: &UserPlaces,
    session: SessionId,
    (stamp, issued_ms): (u64, Option<u64>),
) -> Cmd {
    let (keys, times, apart) = (inner.keys(), &inner.lifetimes, places.apart.as_deref());
    let of_user = [
        keys.user_sessions(&places.user, apart),
        keys.user_revoked(&places.user),
        keys.user_standing(&places.user),
        keys.user_replaced(&places.user, apart),
    ];
    let mut cmd = call(&inner.scripts.readmit, &of_user.each_ref().map(String::as_str));
    cmd.arg(member(stamp, &inner.local.replica, session)).arg(times.session).arg(times.members());
    let own = &inner.leases.own;
    cmd.arg(own.connections_max(apart)).arg(issued_text(issued_ms));
    cmd.arg(if own.evicts_oldest() { "evict" } else { "refuse" });
    cmd.arg(own.replaces(session).map(|place| place.compact().to_string()).unwrap_or_default());
    cmd
}

fn expire(key: &str, life_ms: u64) -> Cmd {
    command(&["PEXPIRE", key, &life_ms.to_string()])
}

fn record_life(inner: &RedisRegistryShared, write: &RecordWrite) -> u64 {
    if write.is_last { inner.lifetimes.resume } else { inner.lifetimes.record() }
}

/// Decodes the response to a step.
pub(super) fn answer(value: RedisResult<Value>) -> CommandAnswer {
    match value {
        Ok(Value::Nil) => CommandAnswer::Nil,
        Ok(Value::Int(number)) => CommandAnswer::Number(number),
        Ok(Value::BulkString(bytes)) => String::from_utf8(bytes).map_or(CommandAnswer::Other, CommandAnswer::Text),
        Ok(Value::SimpleString(text)) => CommandAnswer::Text(text),
        Ok(value @ Value::Array(_)) => gave_way(value).unwrap_or(CommandAnswer::Other),
        _ => CommandAnswer::Other,
    }
}

/// The connections that were evicted for one that was counted late.
fn gave_way(value: Value) -> Option<CommandAnswer> {
    let (replaced, over): (Vec<String>, Vec<String>) = redis::from_redis_value(value).ok()?;
    Some(CommandAnswer::GaveWay { replaced, over })
}
