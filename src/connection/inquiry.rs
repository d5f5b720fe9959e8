//! Answers an operator's inquiry about this replica's open connections. Never checks authorization.

use std::{collections::HashSet, sync::Arc};

use tickgate_wire::{code::CloseCode, model::SessionId};

use super::{handle::ConnectionHandle, table::ConnectionTable};
use crate::{
    clock,
    metrics::DisconnectReason,
    registry::{ConnectionFilter, Inquiry, OpenConnection, ReplicaAnswer, SendResult},
};

/// Approximate maximum size of an answer, which is one Redis message; exceeded by at most one connection.
const LISTED_BYTES_MAX: usize = 256 * 1024;
/// Size of one connection's entry, apart from its names.
const LISTED_BYTES_EACH: usize = 300;

/// Answers with the connections of `table`. `followers`: the sessions that subscribe to the inquiry's topic, if it has
/// one.
pub fn answer(
    table: &ConnectionTable,
    replica: &str,
    now_ms: u64,
    inquiry: &Inquiry,
    followers: Option<&HashSet<SessionId>>,
) -> ReplicaAnswer {
    let of = |matching: &ConnectionFilter| {
        let matches = |handle: &Arc<ConnectionHandle>| {
            followers.is_none_or(|sessions| sessions.contains(&handle.session)) && is_meant(handle, matching, now_ms)
        };
        table.all().into_iter().filter(matches).collect::<Vec<_>>()
    };
    match inquiry {
        Inquiry::List { matching, after, limit } => listed(of(matching), (replica, now_ms), after.as_deref(), *limit),
        Inquiry::Send { connection_id, payload } => {
            let one = ConnectionFilter { connection_id: Some(connection_id.clone()), ..ConnectionFilter::default() };
            ReplicaAnswer::Sent(
                of(&one).first().map_or(SendResult::Unknown, |handle| handle.send_push(payload.as_bytes())),
            )
        }
        Inquiry::Close { matching, reason } => {
            let meant = of(matching);
            meant.iter().for_each(|handle| handle.close(CloseCode::Disconnected, DisconnectReason::Operator, reason));
            ReplicaAnswer::Closed(meant.len())
        }
    }
}

fn is_meant(handle: &ConnectionHandle, matching: &ConnectionFilter, now_ms: u64) -> bool {
    let ConnectionFilter { connection_id, user, endpoint, param, topic: _, idle_seconds } = matching;
    connection_id.as_ref().is_none_or(|id| handle.id().is(id))
        && user.as_deref().is_none_or(|user| handle.user().is_some_and(|of| of.as_str() == user))
        && endpoint.as_ref().is_none_or(|name| handle.origin.profile.name == *name)
        && param.as_ref().is_none_or(|value| handle.origin.param.as_ref() == Some(value))
        && idle_seconds.is_none_or(|seconds| handle.silent_ms(now_ms) >= seconds.saturating_mul(1_000))
}

fn listed(
    mut found: Vec<Arc<ConnectionHandle>>,
    (replica, now_ms): (&str, u64),
    after: Option<&str>,
    limit: usize,
) -> ReplicaAnswer {
    found.sort_by_key(|handle| handle.id());
    let unix_ms = clock::unix_ms();
    let (mut connections, mut bytes) = (Vec::new(), 0);
    for handle in found {
        let connection_id = handle.id().to_string();
        if after.is_some_and(|after| *connection_id <= *after) {
            continue;
        }
        if connections.len() >= limit || bytes > LISTED_BYTES_MAX {
            return ReplicaAnswer::Listed { connections, more: true };
        }
        let channels: Vec<_> = handle.channels().iter().map(ToString::to_string).collect();
        bytes += LISTED_BYTES_EACH + channels.iter().map(String::len).sum::<usize>();
        connections.push(OpenConnection {
            connection_id,
            session: handle.session.to_string(),
            replica: replica.to_owned(),
            user: handle.user().map(ToString::to_string),
            endpoint: handle.origin.profile.name.clone(),
            param: handle.origin.param.clone(),
            connected_ms: handle.origin.opened_ms,
            // The two clocks are read one after the other.
            heard_ms: unix_ms.saturating_sub(handle.silent_ms(now_ms)).max(handle.origin.opened_ms),
            channels,
        });
    }
    ReplicaAnswer::Listed { connections, more: false }
}
