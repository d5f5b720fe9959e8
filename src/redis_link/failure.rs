//! Failures of Redis and their classification. Library errors do not pass beyond this module's callers.

use std::sync::Arc;

use deadpool::managed::{PoolError, TimeoutType};
use redis::{ErrorKind, RedisError};
use thiserror::Error;

use super::RefusalKind;
use crate::metrics;

/// Why Redis did not execute a command.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RedisFailure {
    /// There is no link now; nothing was sent.
    #[error("no connection to redis")]
    Disconnected,
    /// A connection could not be established; nothing was sent.
    #[error("cannot connect to redis: {0}")]
    Unreachable(Arc<str>),
    /// The connection ended before the response: the command may have run.
    #[error("the connection to redis was closed")]
    Closed,
    /// No response in time: the command may have run.
    #[error("redis did not answer in time")]
    TimedOut,
    /// Redis returned an error: the command did not run.
    #[error("{}: {text}", .kind.meaning())]
    Refused {
        /// The category of the error.
        kind: RefusalKind,
        /// Redis's own text.
        text: Arc<str>,
    },
    /// All connections of the pool were busy for the whole wait.
    #[error("too many reads wait for redis")]
    PoolWait,
    /// The server is older than the gateway requires.
    #[error("redis {0} is too old: 7.0 (or valkey 7.2) is required")]
    TooOld(Arc<str>),
    /// The sentinels name no server: why. Nothing was sent.
    #[error("no primary of redis is known: {0}")]
    NoPrimary(Arc<str>),
    /// The sentinels name another server than that of the link.
    #[error("the sentinels name another server as the primary")]
    Superseded,
    /// A server of another kind than the configuration names; nothing was sent.
    #[error("{0}")]
    WrongMode(&'static str),
    /// Redis holds a format other than this program's.
    #[error("{0}")]
    OtherFormat(Arc<str>),
    /// Anything else: the server refused, or returned something unexpected.
    #[error("{0}")]
    Other(Arc<str>),
}

impl RedisFailure {
    /// Classifies a library error.
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
        let kind = match error.kind() {
            ErrorKind::AuthenticationFailed => Some(RefusalKind::WrongPass),
            _ => error.code().and_then(RefusalKind::of),
        };
        match kind {
            Some(kind) => Self::Refused { kind, text: text_of(error).into() },
            None => Self::Other(text_of(error).into()),
        }
    }

    /// Classifies an error that a script caught; `None` for an empty text.
    #[must_use]
    pub fn of_text(text: &str) -> Option<Self> {
        let code = text.split(' ').next().filter(|code| !code.is_empty())?;
        Some(match RefusalKind::of(code.trim_start_matches('-')) {
            Some(kind) => Self::Refused { kind, text: text.into() },
            None => Self::Other(text.into()),
        })
    }

    /// Classifies a failed attempt to connect, with its cause. `tls`: whether it used TLS.
    #[must_use]
    pub(super) fn of_connecting(error: &RedisError, tls: bool) -> Self {
        let why = match Self::of(error) {
            Self::TimedOut if tls => "no response in time; does the port expect TLS?".to_owned(),
            Self::TimedOut => "no response in time".to_owned(),
            Self::Closed if error.is_connection_dropped() && !tls => {
                format!("the server closed the connection at once ({error}); a TLS port requires rediss://")
            }
            Self::Closed | Self::Disconnected | Self::Other(_) => error.to_string(),
            failure => return failure,
        };
        Self::Unreachable(why.into())
    }

    /// The error with which Redis refused, if it did.
    #[must_use]
    pub const fn refusal(&self) -> Option<RefusalKind> {
        match self {
            Self::Refused { kind, .. } => Some(*kind),
            _ => None,
        }
    }

    /// Whether the script must be loaded; then the same command works.
    #[must_use]
    pub fn is_no_script(&self) -> bool {
        self.refusal() == Some(RefusalKind::NoScript)
    }

    /// Whether the same command works after the script is loaded, or the replica has reattached.
    #[must_use]
    pub fn asks_again(&self) -> bool {
        matches!(self.refusal(), Some(RefusalKind::NoScript | RefusalKind::Stale))
    }

    /// Whether the command may have run despite the failure.
    #[must_use]
    pub const fn in_doubt(&self) -> bool {
        matches!(self, Self::Closed | Self::TimedOut)
    }

    /// Whether the same command may succeed later without a change of permissions or of the gateway.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Refused { kind, .. } => kind.is_passing(),
            Self::TooOld(_) | Self::WrongMode(_) | Self::OtherFormat(_) | Self::Other(_) => false,
            Self::Disconnected
            | Self::Unreachable(_)
            | Self::NoPrimary(_)
            | Self::Superseded
            | Self::Closed
            | Self::TimedOut
            | Self::PoolWait => true,
        }
    }

    /// Whether readiness names it: what an operator must change, or what the sentinels say.
    #[must_use]
    pub const fn is_obstacle(&self) -> bool {
        matches!(self, Self::NoPrimary(_)) || !self.is_passing()
    }

    /// Whether the link should be probed now rather than at its next interval.
    #[must_use]
    pub fn accuses_link(&self) -> bool {
        use RefusalKind::{MasterDown, Moved, ReadOnly};
        matches!(self, Self::Closed | Self::TimedOut) || matches!(self.refusal(), Some(ReadOnly | Moved | MasterDown))
    }

    /// The metric label.
    #[must_use]
    pub const fn label(&self) -> metrics::RedisError {
        use metrics::RedisError as Label;
        match self {
            Self::Disconnected | Self::Unreachable(_) | Self::NoPrimary(_) | Self::Superseded | Self::Closed => {
                Label::Closed
            }
            Self::TimedOut => Label::Timeout,
            Self::Refused { kind, .. } => kind.label(),
            Self::PoolWait => Label::PoolWait,
            Self::TooOld(_) | Self::WrongMode(_) | Self::OtherFormat(_) | Self::Other(_) => Label::Other,
        }
    }
}

/// Redis's own text. Its quote of an unknown command is omitted: it may contain a payload.
fn text_of(error: &RedisError) -> String {
    let text = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    };
    match text.split_once(", with args beginning with") {
        Some((kept, _)) => kept.to_owned(),
        None => text,
    }
}

impl From<RedisError> for RedisFailure {
    fn from(error: RedisError) -> Self {
        Self::of(&error)
    }
}

impl From<PoolError<RedisError>> for RedisFailure {
    fn from(error: PoolError<RedisError>) -> Self {
        match error {
            PoolError::Timeout(TimeoutType::Wait) => Self::PoolWait,
            PoolError::Timeout(_) => Self::TimedOut,
            PoolError::Backend(error) => Self::of(&error),
            other => Self::Other(other.to_string().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(reply: &str) -> RedisFailure {
        let value = redis::parse_redis_value(format!("-{reply}\r\n").as_bytes()).unwrap();
        RedisFailure::of(&value.extract_error().unwrap_err())
    }

    #[test]
    fn each_server_error_is_classified() {
        for kind in RefusalKind::ALL {
            let reply = format!("{} something else than usual", kind.code());
            assert_eq!(named(&reply), RedisFailure::Refused { kind: *kind, text: reply.into() });
        }
        let full = named("MISCONF Errors writing to the AOF file: No space left on device");
        let text = "redis cannot write to its disk: MISCONF Errors writing to the AOF file: No space left on device";
        assert_eq!((full.to_string().as_str(), full.label().as_str()), (text, "misconf"));
        assert!(matches!(named("ERR something else"), RedisFailure::Other(_)));
    }

    #[test]
    fn quoted_commands_are_omitted() {
        let unknown =
            named("ERR unknown command 'XADD', with args beginning with: 'tg2:{t:user:alice}:s' '{\"qty\":1}' ");
        assert_eq!(unknown, RedisFailure::Other("ERR unknown command 'XADD'".into()));
    }

    #[test]
    fn only_a_missing_response_leaves_the_outcome_unknown() {
        let timeout = RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        let reset = RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert!(RedisFailure::of(&timeout).in_doubt());
        assert!(RedisFailure::of(&reset).in_doubt());
        assert!(!named("OOM command not allowed").in_doubt());
        assert!(!RedisFailure::Disconnected.in_doubt());
        assert!(!RedisFailure::of_connecting(&timeout, true).in_doubt(), "nothing was sent");
    }
}
