//! Everything that one connection owns, whatever its transport, and what its opening, its commands and its ending have
//! in common. Never decodes what the client sends.

use std::sync::Arc;

use parking_lot::Mutex;
use tickgate_wire::{code::CloseCode, command::Json};

use super::{address::Permit, handle::ConnectionHandle, replica::Replica, subscriptions::Subscriptions};
use crate::{
    bucket::Bucket,
    metrics::{self, Disconnect},
    registry::SessionRecord,
    session::{Allowance, Refused, Session, Wanted},
};

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
    pub(super) permit: Permit,
    pub(super) gauge: prometheus::IntGauge,
}

impl Connection {
    /// Tells the registry that the connection is open, and whose it is.
    pub(super) fn announce(&self) {
        let info = self.handle.info(&self.replica.id, &self.session.profile.name);
        self.replica.registry.opened(info);
    }

    /// Keeps what a resume of the session needs, if the client can resume.
    pub(super) fn record(&self) {
        if !self.session.profile.protocol.has_sessions() || !self.subscriptions.are_complete {
            return;
        }
        let record = SessionRecord {
            user: self.handle.user().map(ToString::to_string),
            profile: self.session.profile.name.clone(),
            param: self.session.param.as_deref().map(str::to_owned),
            subscriptions: self.subscriptions.records(),
        };
        self.replica.registry.record(self.session.id, record);
    }

    /// Starts subscriptions and reports them to the client. False when one could not start because its stream can't be
    /// read now.
    pub(super) async fn subscribe(&mut self, id: Option<Json>, wanted: Vec<Wanted>, mut refused: Vec<Refused>) -> bool {
        let max = self.replica.config.limits.subscriptions_max;
        let wanted = self.subscriptions.within(max, wanted, &mut refused);
        for refusal in &refused {
            self.replica.metrics.errors_total.of(metrics::Code::of(refusal.code.number())).inc();
        }
        let all = self.subscriptions.subscribe(&self.replica.hub, &self.handle, id, wanted, refused).await;
        self.record();
        all
    }

    /// Starts subscriptions that the client did not ask for by a message. It would not ask for them again, so if one
    /// fails the connection is closed, and the client resumes what was recorded before.
    pub(super) async fn subscribe_or_close(&mut self, wanted: Vec<Wanted>) {
        self.subscriptions.are_complete = false;
        if self.subscribe(None, wanted, Vec::new()).await {
            self.subscriptions.are_complete = true;
            self.record();
        } else {
            self.close_to_retry();
        }
    }

    /// Subscribes what the endpoint subscribes by itself.
    pub(super) async fn subscribe_on_connect(&mut self) {
        let wanted = self.session.on_connect(&self.replica.rules);
        if !wanted.is_empty() {
            self.subscribe_or_close(wanted).await;
        }
    }

    /// Closes the connection so that the client tries again; the record of its session stays as it is.
    pub(super) fn close_to_retry(&mut self) {
        self.subscriptions.are_complete = false;
        self.handle.close(CloseCode::TryAgainLater, Disconnect::Internal, "a channel can't be followed now");
    }
}
