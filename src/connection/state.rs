//! The state of one connection, for every transport, and what its opening, commands and ending share. Never decodes
//! messages.

use std::sync::Arc;

use parking_lot::Mutex;
use tickgate_wire::{code::CloseCode, command::SubscribeOptions, model::SessionSecret};

use super::{
    address::Permit, echo::CommandEcho, handle::ConnectionHandle, replica::Replica, subscriptions::Subscriptions,
};
use crate::{
    bucket::Bucket,
    metrics::{self, DisconnectReason},
    registry::SessionRecord,
    session::{ChannelRefusal, RequestedChannel, Session, ViolationAllowance},
};

/// Retry delay for an endpoint whose automatic channels are unavailable.
const RECONNECT_AFTER_MS: u64 = 1_000;

/// The parameters with which a client connected.
#[derive(Debug)]
pub(super) struct DeferredRequest {
    /// Where channels that the endpoint subscribes automatically start.
    pub(super) begin: SubscribeOptions,
    /// Parameters of the URL without a meaning.
    pub(super) ignored: Vec<String>,
    /// The session to take over, if the user is not known yet.
    pub(super) takes_over: Option<SessionSecret>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) replica: Arc<Replica>,
    pub(super) handle: Arc<ConnectionHandle>,
    pub(super) session: Session,
    pub(super) allowance: ViolationAllowance,
    pub(super) subscriptions: Subscriptions,
    /// Shared with the user's other connections; `None` while the user is unknown.
    pub(super) user_bucket: Option<Arc<Mutex<Bucket>>>,
    /// Present until the client is admitted.
    pub(super) arrival: Option<Box<DeferredRequest>>,
    pub(super) permit: Permit,
}

impl Connection {
    /// Notifies the registry that the connection is open, and of its user.
    pub(super) fn announce(&self) {
        let info = self.handle.info(&self.replica.id, &self.session.profile.name);
        self.replica.registry.opened(info);
    }

    /// Counts the connection among the subscribers of its channels, and shows them to operators.
    pub(super) fn note_followed(&self) {
        self.replica.registry.follows(self.session.id, self.subscriptions.audiences());
        self.handle.set_channels(self.subscriptions.channels());
    }

    /// Reports an event to traces of the connection's user.
    pub(super) fn trace(&self, event: &str, fields: impl FnOnce() -> serde_json::Value) {
        let traces = self.replica.hub.traces();
        if traces.are_active() {
            traces.client(&self.handle.outbox, event, None, &fields());
        }
    }

    /// Catches up subscriptions that lag.
    pub(super) async fn catch_up(&mut self) {
        if self.subscriptions.catch_up(&self.handle).await {
            self.note_followed();
        }
    }

    /// Records the session's place, if clients of this endpoint receive their session.
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

    /// Starts subscriptions and sends the reply. False if one could not start because its stream cannot be read now.
    pub(super) async fn subscribe(
        &mut self,
        echo: &CommandEcho,
        wanted: Vec<RequestedChannel>,
        mut refused: Vec<ChannelRefusal>,
    ) -> bool {
        let max = self.replica.config.limits.subscriptions_max;
        let wanted = self.subscriptions.within(max, wanted, &mut refused);
        self.count_refused(&refused);
        let all = self.subscriptions.subscribe(&self.replica.hub, &self.handle, echo, wanted, refused).await;
        self.note_followed();
        all
    }

    /// Counts the refused channels of a reply that grants others.
    pub(super) fn count_refused(&self, refused: &[ChannelRefusal]) {
        for refusal in refused {
            self.replica.metrics.errors_total.of(metrics::CodeLabel::of(refusal.code.number())).inc();
        }
    }

    /// Subscribes the endpoint's automatic channels. The client would not request them again, so if one is unavailable
    /// the connection is closed, and the client reconnects.
    pub(super) async fn subscribe_on_connect(&mut self) {
        let begin = self.arrival.take().map_or_else(SubscribeOptions::default, |arrival| arrival.begin);
        let (wanted, refused) = self.session.on_connect(begin, &self.replica.rules);
        if wanted.is_empty() && refused.is_empty() {
            return;
        }
        if !self.subscribe(&CommandEcho::default(), wanted, refused).await {
            let reason = "a channel is currently unavailable";
            self.handle.close_after(
                CloseCode::TryAgainLater,
                DisconnectReason::Internal,
                reason,
                Some(RECONNECT_AFTER_MS),
            );
        }
    }
}
