//! Users whom the platform reported as inactive, over Redis. As with revocations, every replica stores the reports that
//! it received, checks them before it asks Redis, and writes them again if Redis may have lost them.
//!
//! Never decides by the order of arrival: reports are ordered by their stamps, and the last one counts.

use std::time::Duration;

use tickgate_wire::model::UserId;

use super::{
    Redis, RedisRegistryShared,
    batch::{Broadcast, Op},
    commands::{ask, keep_standing, run},
    message::{ChannelMessage, STANDING, StandingMessage},
    times::millis,
};
use crate::{
    clock,
    registry::{INACTIVE_REASON, OperationOutcome, RegistryUnavailable, USER_INACTIVE, standings::UserStanding},
};

impl Redis {
    pub(in crate::registry) async fn report(&self, user: &UserId, inactive: bool, ttl: Duration) -> OperationOutcome {
        let inner = &*self.0;
        let until_ms = clock::unix_ms().saturating_add(millis(ttl));
        let standing = UserStanding { inactive, until_ms, sent: inner.place_in_order().await };
        inner.take_standing(user, standing);
        let call = keep_standing(inner, user, standing);
        let written = run(inner.topology.at(user.as_str()), &inner.scripts.standing, &call).await;
        let written = written.map(|later: Option<String>| inner.hear_later(user, later.as_deref()));
        let message = message_of(user, standing);
        let kept = serde_json::to_string(&message).unwrap_or_default();
        let channel = inner.keys().control_all();
        let told = inner.spread((STANDING, &kept, standing.sent), &channel, &ChannelMessage::Standing(message)).await;
        let carried =
            OperationOutcome { stored: written.map_err(RegistryUnavailable::from).and(told.stored), told: told.told };
        if carried.stored.is_err() || carried.told.is_err() {
            // This replica has it, and passes it on as soon as Redis accepts it.
            inner.queue_standing(user, standing);
        }
        carried
    }

    pub(in crate::registry) async fn is_inactive(&self, user: &UserId) -> Result<bool, RegistryUnavailable> {
        if let Some(inactive) = self.0.standings.is_inactive(user, clock::unix_ms()) {
            return Ok(inactive);
        }
        let key = self.0.keys().user_standing(user);
        let kept: Option<String> = ask(self.0.topology.at(user.as_str()), redis::cmd("GET").arg(key)).await?;
        Ok(kept.is_some_and(|kept| kept.ends_with(":inactive")))
    }
}

impl RedisRegistryShared {
    /// Handles a report by any replica.
    pub(super) fn hear_standing(&self, message: &StandingMessage) {
        self.clock.saw(message.sent);
        let Ok(user) = UserId::new(&message.user) else { return };
        let StandingMessage { inactive, until_ms, sent, .. } = *message;
        self.take_standing(&user, UserStanding { inactive, until_ms, sent });
    }

    /// Handles a later report of Redis that this replica did not receive.
    pub(super) fn hear_later(&self, user: &UserId, later: Option<&str>) {
        let Some(later) = later.and_then(parse_kept) else { return };
        self.clock.saw(later.sent);
        self.take_standing(user, later);
    }

    /// Records a report if it counts, and closes the connections of an inactive user.
    fn take_standing(&self, user: &UserId, heard: UserStanding) {
        if !self.standings.add(user, heard, clock::unix_ms()) || !heard.inactive {
            return;
        }
        for (session, entry) in self.leases.of_user(user) {
            self.close(session, entry.stamp, USER_INACTIVE, INACTIVE_REASON);
        }
    }

    /// Queues it to be stored and sent when Redis accepts it.
    fn queue_standing(&self, user: &UserId, standing: UserStanding) {
        self.push(self.topology.placement().shard(user.as_str()), Op::Stand(user.clone(), standing));
        let message = message_of(user, standing);
        let kept = serde_json::to_string(&message).unwrap_or_default();
        let message = ChannelMessage::Standing(message).encode();
        self.push(self.control_shard(), Op::TellAll(Broadcast { message, field: STANDING, kept, sent: standing.sent }));
    }
}

fn message_of(user: &UserId, standing: UserStanding) -> StandingMessage {
    let UserStanding { inactive, until_ms, sent } = standing;
    StandingMessage { user: user.to_string(), inactive, until_ms, sent }
}

/// Parses a later report returned by the script.
fn parse_kept(text: &str) -> Option<UserStanding> {
    let mut parts = text.split(':');
    let (sent, state, left_ms) = (parts.next()?, parts.next()?, parts.next()?);
    let left_ms: u64 = left_ms.parse().ok()?;
    let until_ms = clock::unix_ms().saturating_add(left_ms);
    Some(UserStanding { inactive: state == "inactive", until_ms, sent: sent.parse().ok()? })
}
