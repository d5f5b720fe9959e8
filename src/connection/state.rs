//! Everything that one connection owns, whatever its transport, and what its opening, its commands and its ending have
//! in common. Never decodes what the client sends.

use std::sync::Arc;

use parking_lot::Mutex;
use tickgate_wire::{code::CloseCode, command::Options, model::SessionSecret};

use super::{address::Permit, echo::Echo, handle::ConnectionHandle, replica::Replica, subscriptions::Subscriptions};
use crate::{
    bucket::Bucket,
    metrics::{self, Disconnect},
    registry::SessionRecord,
    session::{Allowance, Refused, Session, Wanted},
};

/// When to come back to an endpoint whose own channels can't be followed now.
const RECONNECT_AFTER_MS: u64 = 1_000;

/// What a client asked for when it connected.
#[derive(Debug)]
pub(super) struct Arrival {
    /// Where channels begin that the endpoint subscribes by itself.
    pub(super) begin: Options,
    /// The session that a client wants to take over whose user is not known yet.
    pub(super) takes_over: Option<SessionSecret>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) replica: Arc<Replica>,
    pub(super) handle: Arc<ConnectionHandle>,
    pub(super) session: Session,
    pub(super) allowance: Allowance,
    pub(super) subscriptions: Subscriptions,
    /// Shared with the user's other connections; none while the user is unknown.
    pub(super) user_bucket: Option<Arc<Mutex<Bucket>>>,
    /// Until the client is admitted.
    pub(super) arrival: Option<Box<Arrival>>,
    pub(super) permit: Permit,
}

impl Connection {
    /// Tells the registry that the connection is open, and whose it is.
    pub(super) fn announce(&self) {
        let info = self.handle.info(&self.replica.id, &self.session.profile.name);
        self.replica.registry.opened(info);
    }

    /// Counts the connection among the followers of what it has subscribed, and shows it to operators.
    pub(super) fn note_followed(&self) {
        self.replica.registry.follows(self.session.id, self.subscriptions.audiences());
        self.handle.set_channels(self.subscriptions.channels());
    }

    /// Tells those who trace the connection's user what happens to it.
    pub(super) fn trace(&self, event: &str, fields: impl FnOnce() -> serde_json::Value) {
        let traces = self.replica.hub.traces();
        if traces.are_active() {
            traces.client(&self.handle.outbox, event, None, &fields());
        }
    }

    /// Advances subscriptions that lag.
    pub(super) async fn catch_up(&mut self) {
        if self.subscriptions.catch_up(&self.handle).await {
            self.note_followed();
        }
    }

    /// Keeps what the session's place needs, if clients are told their session.
    pub(super) fn record(&self) {
        if !self.session.profile.protocol.has_sessions() {
            return;
        }
        let record = SessionRecord {
            user: self.handle.user().map(ToString::to_string),
            profile: self.session.profile.name.clone(),
            param: self.session.param.as_deref().map(str::to_owned),
        };
        self.replica.registry.record(self.session.id, record);
    }

    /// Starts subscriptions and reports them to the client. False when one could not start because its stream can't be
    /// read now.
    pub(super) async fn subscribe(&mut self, echo: &Echo, wanted: Vec<Wanted>, mut refused: Vec<Refused>) -> bool {
        let max = self.replica.config.limits.subscriptions_max;
        let wanted = self.subscriptions.within(max, wanted, &mut refused);
        self.count_refused(&refused);
        let all = self.subscriptions.subscribe(&self.replica.hub, &self.handle, echo, wanted, refused).await;
        self.note_followed();
        all
    }

    /// Counts what a reply refuses beside what it grants.
    pub(super) fn count_refused(&self, refused: &[Refused]) {
        for refusal in refused {
            self.replica.metrics.errors_total.of(metrics::Code::of(refusal.code.number())).inc();
        }
    }

    /// Subscribes what the endpoint subscribes by itself. The client would not ask for these channels again, so if one
    /// can't be followed now the connection is closed, and the client comes back.
    pub(super) async fn subscribe_on_connect(&mut self) {
        let begin = self.arrival.take().map_or_else(Options::default, |arrival| arrival.begin);
        let (wanted, refused) = self.session.on_connect(begin, &self.replica.rules);
        if wanted.is_empty() && refused.is_empty() {
            return;
        }
        if !self.subscribe(&Echo::default(), wanted, refused).await {
            let reason = "a channel can't be followed now";
            self.handle.close_after(CloseCode::TryAgainLater, Disconnect::Internal, reason, Some(RECONNECT_AFTER_MS));
        }
    }
}
