//! How a member leaves: it reports what is missing where Redis is another server than before, hands on what it acknowledged,
//! and marks itself as gone. Never acknowledges anything meanwhile, and never takes longer than its timeout.

use std::time::Duration;

use redis::Value;
use tickgate_wire::model::{StreamId, Topic};
use tokio::time::{Instant, sleep};

use super::{GenerationRecord, JoinRound, MemberTask, RETRY_PAUSE};
use crate::{
    backplane::redis::handover,
    clock,
    redis_link::{AttachedServer, RedisFailure},
};

/// How long a member tries to leave, and waits for the others to take over what it acknowledged.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
const HANDOVER_PAUSE: Duration = Duration::from_millis(50);
/// After which the handover is repeated for those that have not taken over: their links may just have been made again.
const HANDOVER_REPEAT: Duration = Duration::from_millis(400);
/// How often in a row the roster may have been written by another replica.
const ATTEMPTS_MAX: usize = 32;

impl MemberTask {
    /// Hands on what was acknowledged, then leaves the roster. Retries until the timeout: the server may be restarting.
    pub(super) async fn leave(&mut self) {
        self.is_leaving = true;
        self.shared.revoke(Some("the replica is leaving".into()));
        let until = Instant::now() + LEAVE_TIMEOUT;
        while let Err(failure) = self.try_to_leave(until).await {
            if Instant::now() + RETRY_PAUSE >= until {
                tracing::warn!(%failure, "left without a mark in redis: the next change of redis will be in doubt");
                return;
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn try_to_leave(&mut self, until: Instant) -> Result<(), RedisFailure> {
        self.settle_in(until).await?;
        let claims = self.ledger.lock().claims(None);
        if let Some(claims) = claims {
            self.hand_over(&claims, until).await?;
        }
        for _ in 0..ATTEMPTS_MAX {
            let mut next = self.look_again().await?;
            self.me.leave(&mut next.state, clock::unix_ms() / 1000);
            let AttachedServer { mut connection, .. } = self.link.attached()?;
            self.commit(&mut connection, next).await?;
            if self.stored.is_some() {
                return Ok(());
            }
        }
        Err(RedisFailure::Other("other replicas keep writing the roster in redis".into()))
    }

    /// Where Redis is another server than before, attaches and reports: nothing else accounts for this member there.
    async fn settle_in(&mut self, until: Instant) -> Result<(), RedisFailure> {
        while let JoinRound::Again = self.round().await? {
            if Instant::now() >= until {
                return Err(RedisFailure::TimedOut);
            }
        }
        Ok(())
    }

    /// The roster as it is now, in the generation that this member is attached to.
    async fn look_again(&mut self) -> Result<GenerationRecord, RedisFailure> {
        let AttachedServer { mut connection, .. } = self.link.attached()?;
        let seen = self.look(&mut connection).await?;
        let stored = seen.stored.filter(|stored| stored.g == self.me.g);
        let stored = stored.ok_or_else(|| RedisFailure::Other("redis has another generation".into()))?;
        (self.revision, self.stored) = (seen.revision, Some(stored.clone()));
        Ok(stored)
    }

    /// Sends the other members what this member acknowledged, until all have taken it over, also those that a boundary
    /// still waits for.
    async fn hand_over(&mut self, claims: &[(Topic, StreamId)], until: Instant) -> Result<(), RedisFailure> {
        let mut told = None::<Instant>;
        while Instant::now() < until {
            if told.is_none_or(|at| at.elapsed() >= HANDOVER_REPEAT) {
                self.tell(claims).await?;
                told = Some(Instant::now());
            }
            let stored = self.look_again().await?;
            if stored.open().is_empty() && self.me.heirs_of_mine(&stored.state).iter().all(|(_, took)| *took) {
                return Ok(());
            }
            sleep(HANDOVER_PAUSE).await;
        }
        tracing::warn!("no replica took over in time what this one acknowledged");
        Ok(())
    }

    async fn tell(&self, claims: &[(Topic, StreamId)]) -> Result<(), RedisFailure> {
        let AttachedServer { mut connection, .. } = self.link.attached()?;
        let channel = self.link.keys().generation_control();
        for message in handover::messages(&self.me.name(), claims) {
            redis::cmd("PUBLISH").arg(&channel).arg(message).query_async::<Value>(&mut connection).await?;
        }
        Ok(())
    }
}
