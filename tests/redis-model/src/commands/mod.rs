//! The table of commands, and the checks before one runs.

mod connection;
mod hashes;
mod keys;
mod sets;
mod sorted;
mod streams;
mod text;

use crate::core::{CommandCaller, CommandResult, Core, ReplicationRole};

type CommandFn = fn(&mut Core, CommandCaller, &[Vec<u8>]) -> CommandResult;

/// One command of the table.
pub(crate) struct CommandSpec {
    pub(crate) name: &'static str,
    /// As in Redis: includes the name, and is negative for "at least".
    arity: i32,
    kind: CommandKind,
    pub(crate) run: CommandFn,
}

/// A command's effect on the dataset.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CommandKind {
    Read,
    Write,
    /// A write that uses memory.
    Grow,
    /// About the connection: not allowed in scripts.
    Link,
}

macro_rules! commands {
    ($($name:literal $arity:literal $kind:ident $run:path;)+) => {
        static TABLE: &[CommandSpec] = &[$(CommandSpec { name: $name, arity: $arity, kind: CommandKind::$kind, run: $run }),+];
    };
}

commands! {
    "ping" -1 Read connection::ping;
    "unwatch" 1 Read connection::ok;
    "hello" -1 Link connection::hello;
    "auth" -2 Link connection::auth;
    "select" 2 Read connection::select;
    "quit" -1 Link connection::quit;
    "client" 3 Link connection::client;
    "info" -1 Read connection::info;
    "role" 1 Read connection::role;
    "config" -3 Read connection::config;
    "time" 1 Read connection::time;
    "wait" 3 Read connection::wait;
    "waitaof" 4 Read connection::wait_aof;
    "publish" 3 Read connection::publish;
    "subscribe" -2 Link connection::subscribe;
    "unsubscribe" -1 Link connection::unsubscribe;
    "get" 2 Read text::get;
    "set" -3 Grow text::set;
    "getdel" 2 Write text::getdel;
    "getrange" 4 Read text::getrange;
    "incr" 2 Grow text::incr;
    "incrby" 3 Grow text::incrby;
    "del" -2 Write keys::del;
    "unlink" -2 Write keys::del;
    "exists" -2 Read keys::exists;
    "type" 2 Read keys::kind;
    "expire" -3 Write keys::expire;
    "pexpire" -3 Write keys::pexpire;
    "persist" 2 Write keys::persist;
    "ttl" 2 Read keys::ttl;
    "pttl" 2 Read keys::pttl;
    "rename" 3 Write keys::rename;
    "renamenx" 3 Write keys::renamenx;
    "flushall" -1 Write keys::flushall;
    "swapdb" 3 Write keys::swapdb;
    "hset" -4 Grow hashes::hset;
    "hsetnx" 4 Grow hashes::hsetnx;
    "hget" 3 Read hashes::hget;
    "hmget" -3 Read hashes::hmget;
    "hgetall" 2 Read hashes::hgetall;
    "hdel" -3 Write hashes::hdel;
    "hlen" 2 Read hashes::hlen;
    "hexists" 3 Read hashes::hexists;
    "hkeys" 2 Read hashes::hkeys;
    "hincrby" 4 Grow hashes::hincrby;
    "hscan" -3 Read hashes::hscan;
    "sadd" -3 Grow sets::sadd;
    "srem" -3 Write sets::srem;
    "scard" 2 Read sets::scard;
    "sismember" 3 Read sets::sismember;
    "zadd" -4 Grow sorted::zadd;
    "zcard" 2 Read sorted::zcard;
    "zcount" 4 Read sorted::zcount;
    "zrem" -3 Write sorted::zrem;
    "zscore" 3 Read sorted::zscore;
    "zrange" -4 Read sorted::zrange;
    "zremrangebyscore" 4 Write sorted::zremrangebyscore;
    "xadd" -5 Grow streams::xadd;
    "xdel" -3 Write streams::xdel;
    "xtrim" -4 Write streams::xtrim;
    "xlen" 2 Read streams::xlen;
    "xrange" -4 Read streams::xrange;
    "xrevrange" -4 Read streams::xrevrange;
    "xread" -4 Read streams::xread;
    "xinfo" -3 Read streams::xinfo;
}

/// Subcommands: the complete name, and the minimum and maximum number of words.
const SUBCOMMANDS: &[(&str, &str, usize, usize)] = &[
    ("client", "setname", 3, 3),
    ("config", "get", 3, usize::MAX),
    ("script", "exists", 3, usize::MAX),
    ("script", "flush", 2, usize::MAX),
    ("script", "load", 3, 3),
    ("xinfo", "stream", 3, usize::MAX),
];

/// What is wrong with a subcommand, if the command has subcommands.
pub(crate) fn of_container(name: &str, words: &[Vec<u8>]) -> Option<String> {
    if !SUBCOMMANDS.iter().any(|(container, ..)| *container == name) {
        return None;
    }
    let Some(asked) = words.get(1) else { return Some(format!("ERR wrong number of arguments for '{name}' command")) };
    let Some((_, sub, least, most)) = SUBCOMMANDS.iter().find(|row| row.0 == name && is(asked, row.1)) else {
        let asked = String::from_utf8_lossy(asked);
        return Some(format!("ERR unknown subcommand '{asked}'. Try {} HELP.", name.to_uppercase()));
    };
    let fits = (*least..=*most).contains(&words.len());
    (!fits).then(|| format!("ERR wrong number of arguments for '{name}|{sub}' command"))
}

impl CommandSpec {
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        TABLE.iter().find(|command| command.name == name)
    }

    pub(crate) fn takes(&self, count: usize) -> bool {
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        if self.arity < 0 { count >= -self.arity } else { count == self.arity }
    }

    pub(crate) fn is_for_scripts(&self) -> bool {
        self.kind != CommandKind::Link
    }

    pub(crate) fn is_write(&self) -> bool {
        matches!(self.kind, CommandKind::Write | CommandKind::Grow)
    }

    /// Why the server does not run it now, checked in the same order as in Redis.
    pub(crate) fn refusal(&self, core: &Core) -> Option<String> {
        let refusals = &core.refusals;
        if self.kind == CommandKind::Grow && refusals.full {
            return Some("OOM command not allowed when used memory > 'maxmemory'.".into());
        }
        if !self.is_write() {
            return None;
        }
        if refusals.disk && core.role == ReplicationRole::Primary {
            return Some(MISCONF.into());
        }
        if refusals.no_replicas && core.role == ReplicationRole::Primary {
            return Some("NOREPLICAS Not enough good replicas to write.".into());
        }
        (core.role != ReplicationRole::Primary).then(|| "READONLY You can't write against a read only replica.".into())
    }
}

const MISCONF: &str = "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. \
    Commands that may modify the data set are disabled, because this instance is configured to report errors during \
    writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs for details about \
    the RDB error.";

pub(crate) const SYNTAX: &str = "ERR syntax error";
pub(crate) const NOT_INTEGER: &str = "ERR value is not an integer or out of range";

pub(crate) fn integer(text: &[u8]) -> Result<i64, String> {
    crate::number::integer(text).ok_or_else(|| NOT_INTEGER.into())
}

pub(crate) fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

pub(crate) fn count_of(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
