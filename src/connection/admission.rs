//! Who may come in: the address, the replica's room, the token, the session to resume, the user's limit, in this order.
//! Decides only; `upgrade` and `event_stream` answer in their own ways.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::{Instant, SystemTime},
};

use axum::response::Response;
use hyper::StatusCode;
use tickgate_wire::{
    code::CloseCode,
    model::{SessionId, check_name},
};

use super::{
    address::{Permit, RefusedBy},
    gateway::Gateway,
    handshake::Credential,
    problem::Problem,
};
use crate::{
    auth::{Identity, TokenError},
    config::{OverLimit, Profile, TokenRule},
    metrics::{Handshake as Outcome, RateScope},
    registry::{Admission, SessionRecord, Verdict},
};

/// One profile with all that it needs.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) gateway: Arc<Gateway>,
    pub(super) profile: Arc<Profile>,
    pub(super) gauge: prometheus::IntGauge,
}

/// A client that is let in.
pub(super) struct Admitted {
    /// When it came.
    pub(super) since: Instant,
    pub(super) identity: Option<Identity>,
    pub(super) session: SessionId,
    /// What it had subscribed before, when it resumes.
    pub(super) resumed: Option<SessionRecord>,
    pub(super) deferred: bool,
    pub(super) permit: Permit,
}

/// A client that is not let in.
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) code: CloseCode,
    pub(super) reason: &'static str,
    pub(super) outcome: Outcome,
    pub(super) retry_after_s: Option<u64>,
}

impl Refused {
    const fn new(status: StatusCode, code: CloseCode, reason: &'static str, outcome: Outcome) -> Self {
        Self { status, code, reason, outcome, retry_after_s: None }
    }

    const fn after(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// The refusal as plain HTTP.
    pub(super) fn into_response(self) -> Response {
        let code = Some((self.code.number(), self.code.name()));
        let retry_after_s = self.retry_after_s;
        Problem { code, retry_after_s, ..Problem::new(self.status, self.reason) }.into_response()
    }
}

impl Endpoint {
    /// The value of the path's one parameter, which becomes part of a topic's name.
    pub(super) fn param(&self, path: &str) -> Result<Option<Box<str>>, ()> {
        let Some(open) = self.profile.path.find('{') else { return Ok(None) };
        let tail = self.profile.path.find('}').map_or("", |close| &self.profile.path[close + 1..]);
        let value = path.get(open..).and_then(|rest| rest.strip_suffix(tail)).ok_or(())?;
        check_name(value).map_err(|_| ())?;
        Ok(Some(value.into()))
    }

    pub(super) async fn admit(
        &self,
        credential: &Credential,
        session: Option<SessionId>,
        address: IpAddr,
    ) -> Result<Admitted, Refused> {
        let gateway = &self.gateway;
        let since = Instant::now();
        let permit = gateway.addresses.admit(address, since).map_err(|refused| {
            gateway.metrics.rate_limited_total.of(RateScope::Address).inc();
            let (code, outcome) = match refused.by {
                RefusedBy::Rate => (CloseCode::RateLimited, Outcome::RateLimited),
                RefusedBy::Connections | RefusedBy::Addresses => (CloseCode::TryAgainLater, Outcome::AddressLimit),
            };
            let reason = "Too many connections from this address";
            Refused::new(StatusCode::TOO_MANY_REQUESTS, code, reason, outcome)
                .after(refused.retry_after.as_secs_f64().ceil() as u64)
        })?;
        if !gateway.has_room() {
            let draining = gateway.closing.load(Ordering::Relaxed);
            let (code, outcome) = if draining {
                (CloseCode::Restarting, Outcome::Draining)
            } else {
                (CloseCode::TryAgainLater, Outcome::Capacity)
            };
            return Err(
                Refused::new(StatusCode::SERVICE_UNAVAILABLE, code, "Replica is full or going away", outcome).after(2)
            );
        }
        let (identity, deferred) = self.identify(credential).await?;
        let (session, resumed) = self.resume(session, identity.as_ref()).await?;
        if let Some(identity) = &identity {
            self.admit_user(identity, session).await?;
        }
        Ok(Admitted { since, identity, session, resumed, deferred, permit })
    }

    /// Who comes, and whether its token is still to come by message.
    async fn identify(&self, credential: &Credential) -> Result<(Option<Identity>, bool), Refused> {
        let rule = self.profile.token;
        if rule == TokenRule::Ignored {
            return Ok((None, false));
        }
        if rule == TokenRule::Publisher
            && let Credential::Token(key) | Credential::ApiKey(key) = credential
            && self.gateway.verifier.is_api_key(key.expose())
        {
            return Ok((None, false));
        }
        match credential {
            Credential::Token(token) => self.verify(token.expose()).await.map(|identity| (Some(identity), false)),
            Credential::Ticket(ticket) => {
                let token = self.gateway.registry.take_ticket(ticket.expose()).await;
                match token {
                    Ok(Some(token)) => self.verify(&token).await.map(|identity| (Some(identity), false)),
                    Ok(None) => Err(self.unauthorized("Invalid token")),
                    Err(_) => Err(unavailable(TOKENS_UNAVAILABLE)),
                }
            }
            Credential::Deferred if rule == TokenRule::Required => Ok((None, true)),
            Credential::ApiKey(_) => Err(self.unauthorized("Invalid token")),
            Credential::None | Credential::Deferred => match rule {
                TokenRule::Required => Err(self.missing()),
                TokenRule::Publisher if !self.gateway.config.development => Err(self.missing()),
                _ => Ok((None, false)),
            },
        }
    }

    fn missing(&self) -> Refused {
        self.gateway.metrics.auth_failures_total.of(crate::metrics::AuthFailure::Missing).inc();
        self.unauthorized("Authentication required")
    }

    async fn verify(&self, token: &str) -> Result<Identity, Refused> {
        let now = SystemTime::now();
        let verifier = &self.gateway.verifier;
        let verified = match verifier.verify_now(token, now) {
            Some(verified) => verified,
            None => verifier.verify(token, now).await,
        };
        let identity = verified.map_err(|error: TokenError| {
            self.gateway.metrics.auth_failures_total.of(error.reason()).inc();
            if error.is_ours() { unavailable(TOKENS_UNAVAILABLE) } else { self.unauthorized("Invalid token") }
        })?;
        if self.profile.token == TokenRule::Publisher && identity.rights.publish.is_empty() {
            let reason = "The token has no publish right";
            return Err(Refused::new(StatusCode::FORBIDDEN, CloseCode::Policy, reason, Outcome::Forbidden));
        }
        Ok(identity)
    }

    fn unauthorized(&self, reason: &'static str) -> Refused {
        let code = CloseCode::from_number(self.profile.refusal_code).unwrap_or(CloseCode::AuthRequired);
        Refused::new(StatusCode::UNAUTHORIZED, code, reason, Outcome::Unauthorized)
    }

    /// The session to go on with: an old one if it may be resumed, else a new one.
    async fn resume(
        &self,
        wanted: Option<SessionId>,
        identity: Option<&Identity>,
    ) -> Result<(SessionId, Option<SessionRecord>), Refused> {
        let Some(session) = wanted else { return Ok((SessionId::random(), None)) };
        let recalled = self.gateway.registry.recall(session).await.map_err(|error| {
            // A new session in its place would forget what the old one still has to get.
            tracing::debug!(%error, "a session can't be recalled now");
            unavailable("Sessions can't be resumed now")
        })?;
        let user = identity.map(|identity| identity.user.as_str());
        let own = |record: &SessionRecord| record.profile == self.profile.name && record.user.as_deref() == user;
        match recalled.filter(own) {
            Some(record) => Ok((session, Some(record))),
            None => Ok((SessionId::random(), None)),
        }
    }

    async fn admit_user(&self, identity: &Identity, session: SessionId) -> Result<(), Refused> {
        let limits = &self.gateway.config.limits;
        let admission = Admission {
            user: identity.user.clone(),
            session,
            connections_max: limits.connections_per_user_max,
            evict_oldest: limits.over_limit == OverLimit::EvictOldest,
            issued_at: identity.issued_at,
        };
        match self.gateway.registry.admit(&admission).await {
            Ok(Verdict::Admitted { .. }) => Ok(()),
            Ok(Verdict::Refused { .. }) => {
                let (code, reason) = (CloseCode::TooManyConnections, "Maximum connections exceeded");
                Err(Refused::new(StatusCode::TOO_MANY_REQUESTS, code, reason, Outcome::UserLimit).after(5))
            }
            Ok(Verdict::Revoked) => {
                let (code, reason) = (CloseCode::UserInactive, "User not found or inactive");
                Err(Refused::new(StatusCode::FORBIDDEN, code, reason, Outcome::Forbidden))
            }
            // While Redis is away nobody can be counted; readiness tells. Who comes here all the same is let in, and
            // counted when Redis is back.
            Err(error) => {
                tracing::debug!(%error, "a connection could not be counted");
                Ok(())
            }
        }
    }
}

const TOKENS_UNAVAILABLE: &str = "Tokens can't be verified now";

const fn unavailable(reason: &'static str) -> Refused {
    Refused::new(StatusCode::SERVICE_UNAVAILABLE, CloseCode::TryAgainLater, reason, Outcome::Unavailable).after(2)
}
