//! Waits for copies of Redis or for the disk (`WAIT`, `WAITAOF`) before acknowledging, for topics whose rule requires
//! it. Uses a dedicated connection, because both commands block theirs. Never reports "refused" for what was stored but
//! not confirmed: that is unknown.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use redis::{Pipeline, Value};
use tickgate_wire::model::TopicRule;

use crate::redis_link::{AttachedServer, RedisFailure, RedisLink};

/// The connection, opened on demand and replaced after any failure.
#[derive(Default)]
pub(super) struct Dedicated {
    attached: Option<AttachedServer>,
}

impl Dedicated {
    /// A connection to the server with this identity.
    pub(super) async fn attached(&mut self, link: &RedisLink, identity: &str) -> Result<AttachedServer, RedisFailure> {
        if let Some(attached) = self.attached.as_ref().filter(|attached| *attached.identity == *identity) {
            return Ok(attached.clone());
        }
        // WAIT may take its full timeout in addition to the response time of the connection.
        let attached = link.dedicated(link.config().response_timeout * 3).await?;
        self.attached = Some(attached.clone());
        Ok(attached)
    }

    pub(super) fn forget(&mut self) {
        self.attached = None;
    }
}

/// The strictest requirements of one pipeline's publications.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Durability {
    replicas: u32,
    aof: bool,
}

impl Durability {
    pub(super) fn require(&mut self, rule: &TopicRule) {
        self.replicas = self.replicas.max(rule.wait_replicas);
        self.aof |= rule.wait_aof;
    }

    /// Adds the waiting command, if required.
    pub(super) fn add_to(self, pipe: &mut Pipeline, timeout: Duration) {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        if self.aof {
            pipe.cmd("WAITAOF").arg(1).arg(self.replicas).arg(timeout_ms);
        } else if self.replicas > 0 {
            pipe.cmd("WAIT").arg(self.replicas).arg(timeout_ms);
        }
    }

    /// Takes the response of the waiting command from the end. Returns what is missing.
    pub(super) fn shortfall(self, values: &mut VecDeque<Value>) -> Option<Arc<str>> {
        if self == Self::default() {
            return None;
        }
        let (local, replicas) = match values.pop_back() {
            Some(Value::Int(replicas)) => (1, replicas),
            Some(Value::Array(parts)) => match parts[..] {
                [Value::Int(local), Value::Int(replicas)] => (local, replicas),
                _ => (0, 0),
            },
            Some(Value::ServerError(error)) => return Some(format!("stored, but not confirmed: {error}").into()),
            _ => (0, 0),
        };
        if local < 1 {
            return Some("stored, but not written to disk in time".into());
        }
        (replicas < i64::from(self.replicas))
            .then(|| format!("stored, but only {replicas} of {} replicas confirmed it in time", self.replicas).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(asked: Durability, reply: Value) -> bool {
        asked.shortfall(&mut VecDeque::from([reply])).is_some()
    }

    #[test]
    fn fewer_copies_than_required_are_reported() {
        let two = Durability { replicas: 2, aof: false };
        assert!(missing(two, Value::Int(1)));
        assert!(!missing(two, Value::Int(2)));
        let disk = Durability { replicas: 0, aof: true };
        assert!(missing(disk, Value::Array(vec![Value::Int(0), Value::Int(0)])));
        assert!(!missing(disk, Value::Array(vec![Value::Int(1), Value::Int(0)])));
        assert!(missing(disk, Value::Nil));
    }

    #[test]
    fn the_response_is_removed_only_if_waiting_was_required() {
        let mut values = VecDeque::from([Value::Int(7), Value::Int(1)]);
        assert_eq!(Durability::default().shortfall(&mut values), None);
        assert_eq!(values.len(), 2);
        assert_eq!(Durability { replicas: 1, aof: false }.shortfall(&mut values), None);
        assert_eq!(values, [Value::Int(7)]);
    }
}
