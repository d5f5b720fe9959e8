//! Revoked tokens over Redis. Every replica stores the revocations that it received, checks them before it asks Redis,
//! and writes them again if Redis may have lost them; so neither a full, an emptied nor an absent Redis admits a token
//! whose revocation was received.
//!
//! Never decides by Redis's clock.

use std::{num::NonZeroU64, time::Duration};

use redis::Value;
use tickgate_wire::model::{IssuedAt, SessionId, UserId};

use super::{
    Redis, RedisRegistryShared,
    batch::{Broadcast, Op},
    commands::{ask_all, revoke, run},
    leases::LeaseEntry,
    message::{ChannelMessage, REVOKED, RevokedMessage},
    times::millis,
};
use crate::{
    clock,
    registry::{
        OperationOutcome, REVOKED_REASON, RegistryUnavailable, RevokedToken, USER_INACTIVE, revocations::Revocation,
    },
};

impl Redis {
    pub(in crate::registry) async fn revoke(&self, user: &UserId, ttl: Duration) -> OperationOutcome {
        let inner = &*self.0;
        let now_ms = clock::unix_ms();
        let revocation = Revocation { at_ms: now_ms, until_ms: now_ms.saturating_add(millis(ttl)) };
        let sent = inner.place_in_order().await;
        let revocation = inner.take_revocation(user, revocation, (sent, true));
        let call = revoke(inner, user, revocation);
        let written: Result<Value, _> = run(inner.topology.at(user.as_str()), &inner.scripts.revoke, &call).await;
        let message = revoked_message(user, revocation, sent);
        let kept = serde_json::to_string(&message).unwrap_or_default();
        let channel = inner.keys().control_all();
        let told = inner.spread((REVOKED, &kept, sent), &channel, &ChannelMessage::Revoked(message)).await;
        let carried = OperationOutcome {
            stored: written.map(drop).map_err(RegistryUnavailable::from).and(told.stored),
            told: told.told,
        };
        if carried.stored.is_err() || carried.told.is_err() {
            // This replica has it, and passes it on as soon as Redis accepts it.
            inner.queue_revocation(user, revocation, sent);
        }
        carried
    }

    pub(in crate::registry) async fn is_revoked(
        &self,
        user: &UserId,
        issued_at: Option<IssuedAt>,
    ) -> Result<Option<RevokedToken>, RegistryUnavailable> {
        if let Some(revoked) = self.0.refuses(user, issued_at) {
            return Ok(Some(revoked));
        }
        let mut pipeline = redis::pipe();
        pipeline.cmd("GET").arg(self.0.keys().user_revoked(user));
        pipeline.cmd("GET").arg(self.0.keys().user_standing(user));
        let kept: (Option<u64>, Option<String>) = ask_all(self.0.topology.at(user.as_str()), &pipeline).await?;
        let (at_ms, standing) = kept;
        if standing.is_some_and(|standing| standing.ends_with(":inactive")) {
            return Ok(Some(RevokedToken::Surely));
        }
        Ok(at_ms.and_then(|at_ms| RevokedToken::judge(issued_at, at_ms)))
    }

    pub(in crate::registry) fn reissued(&self, session: SessionId, issued_at: Option<IssuedAt>) {
        self.0.leases.reissued(session, issued_at);
        self.0.close_if_revoked(session);
    }
}

impl RedisRegistryShared {
    /// Whether this replica knows that such a token was revoked, or that its user is inactive.
    pub(super) fn refuses(&self, user: &UserId, issued_at: Option<IssuedAt>) -> Option<RevokedToken> {
        if self.standings.is_inactive(user, clock::unix_ms()) == Some(true) {
            return Some(RevokedToken::Surely);
        }
        self.revocations.refuses(user, issued_at, clock::unix_ms())
    }

    /// Handles a revocation by any replica. `live`: it was just made.
    pub(super) fn hear_revocation(&self, message: &RevokedMessage, live: bool) {
        self.clock.saw(message.sent);
        let Ok(user) = UserId::new(&message.user) else { return };
        let heard = Revocation { at_ms: message.at_ms, until_ms: message.until_ms };
        let revocation = self.take_revocation(&user, heard, (message.sent, live));
        if live && revocation.at_ms > heard.at_ms {
            // The issuer's clock is ahead, as only a connection here shows.
            self.queue_revocation(&user, revocation, message.sent);
        }
    }

    /// Records a revocation and closes the user's connections here that were opened before it, or with such tokens. If
    /// `live`, it is raised to the newest token of those, which must not be accepted again; later the user may have a
    /// new token.
    fn take_revocation(&self, user: &UserId, heard: Revocation, (sent, live): (u64, bool)) -> Revocation {
        let own = self.leases.of_user(user);
        let before = |entry: &LeaseEntry| entry.stamp < sent;
        let newest =
            own.iter().filter(|(_, entry)| live && before(entry)).filter_map(|(_, entry)| entry.issued_ms).max();
        let at_ms = newest.map_or(heard.at_ms, |newest| newest.get().max(heard.at_ms));
        let known = self.revocations.add(user, Revocation { at_ms, ..heard }, clock::unix_ms());
        for (session, entry) in own {
            if before(&entry) || is_refused(&entry, known.at_ms) {
                self.close(session, entry.stamp, USER_INACTIVE, REVOKED_REASON);
            }
        }
        Revocation { at_ms, ..heard }
    }

    /// Closes a session that was admitted or got another token while its user's tokens were being revoked.
    pub(super) fn close_if_revoked(&self, session: SessionId) {
        let Some(entry) = self.leases.get(session) else { return };
        let Some(user) = &entry.user else { return };
        let issued_at = entry.issued_ms.map(|ms| IssuedAt::at_ms(ms.get()));
        if self.refuses(user, issued_at).is_some() {
            self.close(session, entry.stamp, USER_INACTIVE, REVOKED_REASON);
        }
    }

    /// Queues it to be stored and sent when Redis accepts it.
    fn queue_revocation(&self, user: &UserId, revocation: Revocation, sent: u64) {
        let shard = self.session_shard_of(user);
        self.push(shard, Op::Revoke(user.clone(), revocation));
        let message = revoked_message(user, revocation, sent);
        let kept = serde_json::to_string(&message).unwrap_or_default();
        let message = ChannelMessage::Revoked(message).encode();
        self.push(self.control_shard(), Op::TellAll(Broadcast { message, field: REVOKED, kept, sent }));
    }

    fn session_shard_of(&self, user: &UserId) -> usize {
        self.topology.placement().shard(user.as_str())
    }
}

fn is_refused(entry: &LeaseEntry, at_ms: u64) -> bool {
    entry.issued_ms.map_or(0, NonZeroU64::get) <= at_ms
}

fn revoked_message(user: &UserId, revocation: Revocation, sent: u64) -> RevokedMessage {
    let Revocation { at_ms, until_ms } = revocation;
    RevokedMessage { user: user.to_string(), at_ms, until_ms, sent }
}
