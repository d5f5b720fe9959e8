//! Admission over Redis: a user's places, and single-use tickets. Awaited commands are sent at once over the command
//! link, which pipelines them.
//!
//! Never leaves a place taken by an admission whose response was not received.

use std::time::Duration;

use tickgate_wire::model::IssuedAt;

use super::{
    Redis, RedisRegistryShared,
    batch::Op,
    commands::{ask, call, issued_text, run_for},
    own_count::OwnVerdict,
    owner::{member, split_member},
    sealed::{NotSealed, SealedTicket},
    times::millis,
};
use crate::{
    redis_link::{RedisCommand, RedisFailure},
    registry::{Admission, AdmissionVerdict, RegistryUnavailable, RevokedToken, superseded},
};

/// The script's response: verdict, count, evicted members, replaced members, stamp.
type AdmissionReply = (i8, u32, Vec<String>, Vec<String>, u64);

impl Redis {
    pub(in crate::registry) async fn admit(&self, admission: &Admission) -> AdmissionVerdict {
        if let Some(revoked) = self.0.refuses(&admission.user, admission.issued_at) {
            return AdmissionVerdict::Revoked(revoked);
        }
        self.0.admit(admission).await.unwrap_or_else(|failure| {
            tracing::debug!(%failure, "a connection is counted by this replica only");
            // Nobody can tell whether the session has a newer connection.
            if self.0.waiting_since().is_some() { AdmissionVerdict::Late } else { self.0.admit_alone(admission) }
        })
    }

    pub(in crate::registry) async fn put_ticket(
        &self,
        ticket: &str,
        token: &str,
        ttl: Duration,
    ) -> Result<(), RegistryUnavailable> {
        let sealed = SealedTicket::of(ticket)?;
        let mut set = redis::cmd("SET");
        set.arg(self.0.keys().ticket(&sealed.name)).arg(sealed.seal(token)?).arg("PX").arg(millis(ttl));
        Ok(ask(self.0.topology.at(&sealed.name), &set).await?)
    }

    pub(in crate::registry) async fn take_ticket(&self, ticket: &str) -> Result<Option<String>, RegistryUnavailable> {
        let sealed = SealedTicket::of(ticket)?;
        let key = self.0.keys().ticket(&sealed.name);
        let token: Option<Vec<u8>> = ask(self.0.topology.at(&sealed.name), redis::cmd("GETDEL").arg(key)).await?;
        // A token that this ticket does not open was not stored for it.
        Ok(token.and_then(|token| sealed.open(token).ok()))
    }
}

impl From<NotSealed> for RegistryUnavailable {
    fn from(_: NotSealed) -> Self {
        Self("the ticket cannot be sealed".into())
    }
}

impl RedisRegistryShared {
    /// Counts the session against its user's limit on all replicas.
    async fn admit(&self, admission: &Admission) -> Result<AdmissionVerdict, RedisFailure> {
        let Admission { user, session, .. } = admission;
        let (keys, times, stamp) = (self.keys(), &self.lifetimes, self.stamp());
        let apart = admission.apart.as_deref();
        let of_user = [
            keys.user_sessions(user, apart),
            keys.user_revoked(user),
            keys.user_standing(user),
            keys.user_replaced(user, apart),
        ];
        let mut call = call(&self.scripts.admit, &of_user.each_ref().map(String::as_str));
        call.arg(member(stamp, &self.local.replica, *session));
        call.arg(times.admission()).arg(times.members()).arg(admission.connections_max);
        call.arg(if admission.evict_oldest { "evict" } else { "refuse" })
            .arg(issued_text(admission.issued_at.map(IssuedAt::earliest_ms)))
            .arg(admission.replaces.map(|place| place.compact().to_string()).unwrap_or_default())
            .arg(self.waiting_since().map(|since| since.to_string()).unwrap_or_default());
        let mut doubt = UncertainAdmission { inner: self, admission, stamp, ended: false };
        let (link, script) = (self.topology.at(user.as_str()), &self.scripts.admit);
        let answer: Result<AdmissionReply, RedisFailure> = run_for(RedisCommand::Admit, link, script, &call).await;
        doubt.ended = answer.as_ref().err().is_none_or(|failure| !failure.in_doubt());
        let answer = answer?;
        let (verdict, connections, evicted, replaced, stamp) = answer;
        match verdict {
            1 => self.admitted(admission, self.clock.saw(stamp)),
            0 => return Ok(AdmissionVerdict::Refused { connections }),
            -2 => return Ok(AdmissionVerdict::Late),
            // The field of the stamp contains the time of the revocation.
            _ => {
                let revoked = RevokedToken::judge(admission.issued_at, stamp);
                return Ok(AdmissionVerdict::Revoked(revoked.unwrap_or(RevokedToken::Surely)));
            }
        }
        for (owner, other) in evicted.iter().chain(&replaced).filter_map(|member| split_member(member)) {
            // Two connections of one session on one replica are distinguished there.
            if other != *session || owner.replica != self.local.replica {
                self.supersede(other, &owner);
            }
        }
        let evicted = evicted.last().and_then(|member| split_member(member)).map(|(_, session)| session);
        Ok(AdmissionVerdict::Admitted { connections, evicted })
    }

    /// Counts the session against its user's limit on this replica, while Redis is unavailable.
    fn admit_alone(&self, admission: &Admission) -> AdmissionVerdict {
        let stamp = self.stamp();
        match self.leases.admit_alone(admission, stamp) {
            OwnVerdict::Refused { connections } => AdmissionVerdict::Refused { connections: count(connections) },
            OwnVerdict::Admitted { connections, evicted } => {
                self.admitted(admission, stamp);
                let oldest = evicted.last().copied();
                evicted.into_iter().for_each(|session| (self.local.control)(superseded(session)));
                AdmissionVerdict::Admitted { connections: count(connections), evicted: oldest }
            }
        }
    }

    /// Records that the session has a place.
    fn admitted(&self, admission: &Admission, stamp: u64) {
        let (session, user) = (admission.session, Some(&admission.user));
        let was_anonymous = self.leases.admitted(admission, stamp);
        if was_anonymous && self.session_shard(session, user) != self.record_shard(session) {
            // The session's previous index.
            self.push(self.record_shard(session), Op::Opened(session));
        }
    }
}

fn count(connections: usize) -> u32 {
    u32::try_from(connections).unwrap_or(u32::MAX)
}

/// A pending admission. If it ends without a response (timeout, or the client left), its member may nevertheless be in
/// the user's set, so it is removed.
struct UncertainAdmission<'a> {
    inner: &'a RedisRegistryShared,
    admission: &'a Admission,
    stamp: u64,
    ended: bool,
}

impl Drop for UncertainAdmission<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let (session, places) = (self.admission.session, self.admission.places());
            let shard = self.inner.session_shard(session, Some(&places.user));
            self.inner.push(shard, Op::Release { session, places, stamp: self.stamp });
        }
    }
}
