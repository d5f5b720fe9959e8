//! Admission of clients: checks address, capacity, token, session and the user's limit, in this order. Never responds:
//! `upgrade` and `event_stream` do, each in its own way.

use std::{
    fmt,
    sync::Arc,
    time::{Instant, SystemTime},
};

use axum::response::Response;
use hyper::{HeaderMap, StatusCode};
use tickgate_wire::{
    code::CloseCode,
    command::SubscribeOptions,
    model::{SessionId, SessionSecret},
};
use tokio::sync::Semaphore;

use super::{
    address::{Permit, RefusedBy},
    attempt::Attempt,
    handshake::Credential,
    query,
    replica::Replica,
    user_place::{self, UserRefusal},
};
use crate::{
    auth::{ApiKey, TokenError, TokenIdentity},
    config::{Profile, Right, TokenRule},
    hub,
    metrics::{AuthFailure, HandshakeResult, KeyUse, RateScope},
    session::{ChannelContext, check_begin},
};

pub(super) use super::refused::ClientRefusal;

/// One profile and its dependencies.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) replica: Arc<Replica>,
    pub(super) profile: Arc<Profile>,
    /// Shared by the outboxes of its clients.
    pub(super) outboxes: Arc<hub::EndpointOutboxes>,
    /// The places of its connections, if their number is limited.
    pub(super) places: Option<Arc<Semaphore>>,
}

/// An attempt within the limits of its address.
pub(super) struct AddressAttempt {
    permit: Permit,
    /// When the place was taken.
    since: Instant,
}

/// The client's identity, as far as known.
#[derive(Default)]
struct KnownIdentity {
    identity: Option<TokenIdentity>,
    key: Option<Arc<ApiKey>>,
    /// The token will follow in a message.
    deferred: bool,
}

impl KnownIdentity {
    fn user(identity: TokenIdentity) -> Self {
        Self { identity: Some(identity), ..Self::default() }
    }
}

/// An admitted client.
pub(super) struct Admitted {
    /// When its admission began.
    pub(super) since: Instant,
    pub(super) identity: Option<TokenIdentity>,
    /// The producer's key.
    pub(super) key: Option<Arc<ApiKey>>,
    pub(super) session: SessionId,
    /// The session's secret, which only the client keeps.
    pub(super) secret: SessionSecret,
    /// The session was taken over from another connection, which must end.
    pub(super) resumed: bool,
    /// The session to take over once the user is known.
    pub(super) takes_over: Option<SessionSecret>,
    /// The token follows in the first message.
    pub(super) deferred: bool,
    pub(super) permit: Permit,
    pub(super) attempt: Attempt,
}

impl Endpoint {
    /// Counts and logs a refusal.
    pub(super) fn note_refusal(&self, attempt: Attempt, outcome: HandshakeResult, reason: impl fmt::Display) {
        self.replica.metrics.handshakes_total.of(outcome).inc();
        let from = (attempt.connection_id, attempt.address);
        self.replica.audit.refused_client(&self.profile.name, from, outcome, reason);
    }

    /// Refuses a client with an HTTP response.
    pub(super) fn refuse(&self, attempt: Attempt, request: &HeaderMap, refused: ClientRefusal) -> Response {
        self.note_refusal(attempt, refused.outcome, &refused);
        refused.respond(request)
    }

    /// The decoded path parameter, which becomes part of topic names.
    ///
    /// # Errors
    /// A message if it is not a valid name.
    pub(super) fn param(&self, path: &str) -> Result<Option<Box<str>>, String> {
        let pattern = &self.profile.path;
        let Some((open, close)) = pattern.find('{').zip(pattern.find('}')) else { return Ok(None) };
        let value = path.get(open..).and_then(|rest| rest.strip_suffix(&pattern[close + 1..])).unwrap_or_default();
        let value = query::decode_name(value).map_err(|_| "the path is not valid UTF-8")?;
        self.profile.check_param(&value)?;
        Ok(Some(value.into()))
    }

    /// Counts the attempt and takes a connection's place for its address. Expensive checks come only after this.
    pub(super) fn take_place(&self, attempt: Attempt) -> Result<AddressAttempt, ClientRefusal> {
        let since = Instant::now();
        let permit = self.replica.addresses.admit(attempt.address, since).map_err(|refused| {
            self.replica.metrics.rate_limited_total.of(RateScope::Address).inc();
            let (code, outcome) = match refused.by {
                RefusedBy::Rate => (CloseCode::RateLimited, HandshakeResult::RateLimited),
                RefusedBy::Connections | RefusedBy::Addresses => {
                    (CloseCode::TryAgainLater, HandshakeResult::AddressLimit)
                }
            };
            let reason = "Too many connections from this address";
            ClientRefusal::new(StatusCode::TOO_MANY_REQUESTS, code, reason, outcome)
                .after(refused.retry_after.as_secs_f64().ceil() as u64)
        })?;
        Ok(AddressAttempt { permit, since })
    }

    pub(super) async fn admit(
        &self,
        credential: &Credential,
        session: Option<SessionSecret>,
        attempt: Attempt,
        place: AddressAttempt,
    ) -> Result<Admitted, ClientRefusal> {
        let replica = &self.replica;
        let AddressAttempt { mut permit, since } = place;
        if !replica.has_room() {
            let draining = replica.is_closing();
            let (code, outcome) = if draining {
                (CloseCode::Restarting, HandshakeResult::Draining)
            } else {
                (CloseCode::TryAgainLater, HandshakeResult::Capacity)
            };
            return Err(ClientRefusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                code,
                "Replica is full or shutting down",
                outcome,
            )
            .after(2));
        }
        if let Some(places) = &self.places {
            let place = Arc::clone(places).try_acquire_owned();
            permit.hold(place.map_err(|_| {
                let (status, code) = (StatusCode::SERVICE_UNAVAILABLE, CloseCode::TryAgainLater);
                ClientRefusal::new(status, code, "Endpoint is full", HandshakeResult::Capacity).after(2)
            })?);
        }
        let KnownIdentity { identity, key, deferred } = self.identify(credential).await?;
        let (takes_over, wanted) = if deferred { (session, None) } else { (None, session) };
        let user = identity.as_ref().map(|identity| &identity.user);
        let chosen = user_place::session_for(replica, &self.profile, wanted, user).await;
        if let Some(identity) = &identity {
            user_place::admit_user(&self.replica, &self.profile, identity, chosen).await?;
        }
        let user_place::SessionChoice { session, secret, resumed, .. } = chosen;
        Ok(Admitted { since, identity, key, session, secret, resumed, takes_over, deferred, permit, attempt })
    }

    /// Verifies the client's credentials.
    async fn identify(&self, credential: &Credential) -> Result<KnownIdentity, ClientRefusal> {
        let rule = self.profile.token;
        if rule == TokenRule::Ignored {
            return Ok(KnownIdentity::default());
        }
        if rule == TokenRule::Publisher
            && let Credential::Bearer(text) | Credential::ApiKey(text) = credential
            && let Some(key) = self.replica.verifier.api_key(text.expose())
        {
            return self.by_key(key);
        }
        match credential {
            Credential::Bearer(token) | Credential::Token(token) => {
                self.verify(token.expose()).await.map(KnownIdentity::user)
            }
            Credential::Ticket(ticket) => {
                let token = self.replica.registry.take_ticket(ticket.expose()).await;
                match token {
                    Ok(Some(token)) => self.verify(&token).await.map(KnownIdentity::user),
                    Ok(None) => Err(self.unauthorized("Invalid token")),
                    Err(_) => Err(unavailable(TOKENS_UNAVAILABLE)),
                }
            }
            Credential::Deferred if rule == TokenRule::Required => {
                Ok(KnownIdentity { deferred: true, ..KnownIdentity::default() })
            }
            Credential::ApiKey(_) => Err(self.unauthorized("Invalid token")),
            Credential::None | Credential::Deferred => match rule {
                TokenRule::Required => Err(self.missing()),
                TokenRule::Publisher if !self.replica.config.development => Err(self.missing()),
                _ => Ok(KnownIdentity::default()),
            },
        }
    }

    /// Identifies a producer by its key.
    fn by_key(&self, key: Arc<ApiKey>) -> Result<KnownIdentity, ClientRefusal> {
        let count = |result| self.replica.metrics.api_key_requests_total.of(&key.name, result).inc();
        if !key.may(Right::Publish) {
            count(KeyUse::Forbidden);
            let reason = format!("The API key {} lacks the right publish", key.name);
            return Err(ClientRefusal::new(
                StatusCode::FORBIDDEN,
                CloseCode::Policy,
                reason,
                HandshakeResult::Forbidden,
            ));
        }
        count(KeyUse::Accepted);
        Ok(KnownIdentity { key: Some(key), ..KnownIdentity::default() })
    }

    fn missing(&self) -> ClientRefusal {
        self.replica.metrics.auth_failures_total.of(AuthFailure::Missing).inc();
        self.unauthorized("Authentication required").for_log(AuthFailure::Missing)
    }

    async fn verify(&self, token: &str) -> Result<TokenIdentity, ClientRefusal> {
        let now = SystemTime::now();
        let verifier = &self.replica.verifier;
        let verified = match verifier.verify_now(token, now) {
            Some(verified) => verified,
            None => verifier.verify(token, now).await,
        };
        let identity = verified.map_err(|error: TokenError| {
            self.replica.metrics.auth_failures_total.of(error.reason()).inc();
            let refused =
                if error.is_ours() { unavailable(TOKENS_UNAVAILABLE) } else { self.unauthorized("Invalid token") };
            let refused = refused.for_log(error.reason());
            // The cause could help an attacker to guess, so only development mode shows it.
            let cause = self.replica.config.development.then(|| error.to_string());
            ClientRefusal { cause, ..refused }
        })?;
        self.replica.metrics.tokens_accepted_total.inc();
        if self.profile.token == TokenRule::Publisher && identity.rights.publish.is_empty() {
            let reason = "The token has no publish right";
            return Err(ClientRefusal::new(
                StatusCode::FORBIDDEN,
                CloseCode::Policy,
                reason,
                HandshakeResult::Forbidden,
            ));
        }
        Ok(identity)
    }

    fn unauthorized(&self, reason: &'static str) -> ClientRefusal {
        let code = CloseCode::from_number(self.profile.refusal_code).unwrap_or(CloseCode::AuthRequired);
        ClientRefusal::new(StatusCode::UNAUTHORIZED, code, reason, HandshakeResult::Unauthorized)
    }

    /// Checks that the starting positions in the URL apply; otherwise the admission is withdrawn.
    pub(super) fn may_begin(
        &self,
        param: Option<&str>,
        (begin, explicit): (SubscribeOptions, bool),
        admitted: Admitted,
    ) -> Result<Admitted, ClientRefusal> {
        let view = ChannelContext {
            profile: &self.profile,
            param,
            identity: admitted.identity.as_ref(),
            topics: &self.replica.rules.topics,
            development: self.replica.rules.development,
        };
        let channels = if explicit { Vec::new() } else { view.on_connect().0 };
        match check_begin(begin, &channels) {
            Ok(()) => Ok(admitted),
            Err((field, reason)) => {
                self.withdraw(&admitted);
                Err(ClientRefusal::malformed(reason, Some(field)))
            }
        }
    }

    /// Withdraws the admission of a client that left before its connection opened.
    pub(super) fn withdraw(&self, admitted: &Admitted) {
        self.replica.registry.closed(admitted.session);
    }
}

impl From<UserRefusal> for ClientRefusal {
    fn from(refusal: UserRefusal) -> Self {
        let (status, reason, outcome) = match refusal {
            UserRefusal::TooManyConnections => {
                (StatusCode::TOO_MANY_REQUESTS, "Maximum connections exceeded", HandshakeResult::UserLimit)
            }
            UserRefusal::Late => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The request waited while the replica was suspended",
                HandshakeResult::Unavailable,
            ),
            UserRefusal::Revoked => (StatusCode::FORBIDDEN, "User not found or inactive", HandshakeResult::Forbidden),
            UserRefusal::Doubtful => (StatusCode::UNAUTHORIZED, DOUBTFUL, HandshakeResult::Unauthorized),
        };
        let refused = Self::new(status, refusal.code(), reason, outcome);
        match refusal {
            UserRefusal::TooManyConnections => refused.after(5),
            // That second is over by then.
            UserRefusal::Doubtful => refused.after(1),
            // Then it is certain that a request did not wait.
            UserRefusal::Late => refused.after(3),
            UserRefusal::Revoked => refused,
        }
    }
}

/// The refusal if no descriptor is left for clients.
pub(super) fn no_descriptor() -> ClientRefusal {
    let (status, code) = (StatusCode::SERVICE_UNAVAILABLE, CloseCode::TryAgainLater);
    ClientRefusal::new(status, code, "Replica has no file descriptor left", HandshakeResult::Capacity).after(2)
}

/// The response to a client whose token may have been revoked.
pub(super) const DOUBTFUL: &str = "The token was issued in the same second as a revocation; request a new one";

const TOKENS_UNAVAILABLE: &str = "Tokens cannot be verified now";

fn unavailable(reason: &'static str) -> ClientRefusal {
    ClientRefusal::new(StatusCode::SERVICE_UNAVAILABLE, CloseCode::TryAgainLater, reason, HandshakeResult::Unavailable)
        .after(2)
}
