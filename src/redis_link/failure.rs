//! Every failure of Redis by its name. Never a raw library error beyond this module's callers.

use std::sync::Arc;

use deadpool_redis::PoolError;
use redis::{ErrorKind, RedisError, ServerErrorKind};
use thiserror::Error;

use crate::metrics;

/// Why Redis did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Failure {
    /// There is no link now; nothing was sent.
    #[error("no connection to redis")]
    Disconnected,
    /// The connection ended before the answer: the command may have run.
    #[error("the connection to redis was closed")]
    Closed,
    /// No answer in time: the command may have run.
    #[error("redis did not answer in time")]
    TimedOut,
    #[error("redis is loading its data set")]
    Loading,
    #[error("redis is a read-only replica")]
    ReadOnly,
    #[error("redis is out of memory")]
    OutOfMemory,
    #[error("redis is busy with a script")]
    Busy,
    /// The script is not loaded; load it and try again.
    #[error("redis does not know the script")]
    NoScript,
    #[error("redis moved the key to another server")]
    Moved,
    /// Authentication or access rights.
    #[error("redis denied access: {0}")]
    Denied(Arc<str>),
    /// All connections of the pool stayed busy for the whole wait.
    #[error("too many reads wait for redis")]
    PoolWait,
    /// The server is older than what the gateway needs.
    #[error("redis {0} is too old: 7.0 (or valkey 7.2) is needed")]
    TooOld(Arc<str>),
    /// Anything else: the server refused, or answered something unexpected.
    #[error("{0}")]
    Other(Arc<str>),
}

impl Failure {
    /// Names a library error.
    #[must_use]
    pub fn of(error: &RedisError) -> Self {
        if error.is_timeout() {
            return Self::TimedOut;
        }
        if error.is_connection_refusal() {
            return Self::Disconnected;
        }
        if error.is_io_error() || error.is_connection_dropped() {
            return Self::Closed;
        }
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::BusyLoading) => Self::Loading,
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) => Self::ReadOnly,
            ErrorKind::Server(ServerErrorKind::NoScript) => Self::NoScript,
            ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask) => Self::Moved,
            ErrorKind::Server(ServerErrorKind::NoPerm) | ErrorKind::AuthenticationFailed => Self::denied(error),
            _ => match error.code() {
                Some("OOM") => Self::OutOfMemory,
                Some("BUSY") => Self::Busy,
                Some("NOAUTH" | "WRONGPASS" | "NOPERM") => Self::denied(error),
                _ => Self::Other(error.to_string().into()),
            },
        }
    }

    fn denied(error: &RedisError) -> Self {
        Self::Denied(error.detail().unwrap_or_default().into())
    }

    /// Whether the command may have run all the same.
    #[must_use]
    pub const fn in_doubt(&self) -> bool {
        matches!(self, Self::Closed | Self::TimedOut)
    }

    /// Whether the link should be looked at now rather than at its next probe.
    #[must_use]
    pub const fn accuses_link(&self) -> bool {
        matches!(self, Self::Closed | Self::TimedOut | Self::ReadOnly | Self::Moved)
    }

    /// The label it is counted under.
    #[must_use]
    pub const fn label(&self) -> metrics::RedisError {
        use metrics::RedisError as Label;
        match self {
            Self::Disconnected | Self::Closed => Label::Closed,
            Self::TimedOut => Label::Timeout,
            Self::Loading => Label::Loading,
            Self::ReadOnly => Label::ReadOnly,
            Self::OutOfMemory => Label::OutOfMemory,
            Self::Busy => Label::Busy,
            Self::NoScript => Label::NoScript,
            Self::Moved => Label::Moved,
            Self::Denied(_) => Label::Denied,
            Self::PoolWait => Label::PoolWait,
            Self::TooOld(_) | Self::Other(_) => Label::Other,
        }
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        Self::of(&error)
    }
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Timeout(deadpool_redis::TimeoutType::Wait) => Self::PoolWait,
            PoolError::Timeout(_) => Self::TimedOut,
            PoolError::Backend(error) => Self::of(&error),
            other => Self::Other(other.to_string().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(reply: &str) -> Failure {
        let value = redis::parse_redis_value(format!("-{reply}\r\n").as_bytes()).unwrap();
        Failure::of(&value.extract_error().unwrap_err())
    }

    #[test]
    fn each_server_error_has_its_name() {
        assert_eq!(named("LOADING Redis is loading the dataset in memory"), Failure::Loading);
        assert_eq!(named("READONLY You can't write against a read only replica."), Failure::ReadOnly);
        assert_eq!(named("OOM command not allowed when used memory > 'maxmemory'."), Failure::OutOfMemory);
        assert_eq!(named("BUSY Redis is busy running a script."), Failure::Busy);
        assert_eq!(named("NOSCRIPT No matching script."), Failure::NoScript);
        assert!(matches!(named("NOPERM this user has no permissions"), Failure::Denied(_)));
        assert!(matches!(named("WRONGPASS invalid username-password pair"), Failure::Denied(_)));
        assert!(matches!(named("ERR something else"), Failure::Other(_)));
    }

    #[test]
    fn only_silence_leaves_doubt() {
        let timeout = RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        let reset = RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert!(Failure::of(&timeout).in_doubt());
        assert!(Failure::of(&reset).in_doubt());
        assert!(!named("OOM command not allowed").in_doubt());
        assert!(!Failure::Disconnected.in_doubt());
    }
}
