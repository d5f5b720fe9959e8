//! The connections to the exchange: one, and a second one while it replaces the first, so that no data is missed in
//! between.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use uuid::Uuid;

use super::{
    FeedShared,
    control::{ControlAction, StreamControl},
    ladder::{ConnectFailure, Ladder, Remedies, Silence, Watchdog, leaves},
    socket::{self, ConnectionParts, LastSent, SocketEvent},
    status::Reason,
};
use crate::{
    defect::{self, Defect},
    metrics::{BadFrame, FeedEnd},
};

/// How long the old connection stays open after the new one delivers data.
const OVERLAP: Duration = Duration::from_secs(2);
/// A demanded wait longer than this is a ban.
const BAN: Duration = Duration::from_secs(60);

struct FeedConnection {
    id: u64,
    messages: mpsc::Sender<String>,
    sent: LastSent,
    control: StreamControl,
    watchdog: Watchdog,
    is_open: bool,
    leaves: Instant,
    /// The connection is to be replaced.
    is_old: bool,
}

impl FeedConnection {
    /// Sends the next control message, if one is due. True if the exchange does not respond to control messages.
    fn ask(&mut self, streams: &BTreeSet<String>, now: Instant) -> bool {
        // Paced by the time of writing, not of queueing: a busy machine may write later.
        if let Some(sent) = *self.sent.lock() {
            self.control.sent(sent);
        }
        // A task that accepts no messages is judged by its lack of data.
        let Ok(permit) = self.messages.try_reserve() else { return false };
        match self.control.next(streams, now) {
            ControlAction::Send(text) => permit.send(text),
            ControlAction::Nothing => {}
            ControlAction::GiveUp => return true,
        }
        false
    }
}

pub(super) struct FeedConnections {
    shared: FeedShared,
    events: mpsc::Sender<(u64, SocketEvent)>,
    ladder: Ladder,
    remedies: Remedies,
    all: Vec<FeedConnection>,
    last_id: u64,
    reason: Reason,
}

/// What the owner of the connections must act on.
pub(super) enum FeedEvent {
    Text(Utf8Bytes),
    /// The exchange demands this wait; a ban applies to every request.
    Limited(Duration),
}

impl FeedConnections {
    pub(super) fn new(shared: FeedShared, events: mpsc::Sender<(u64, SocketEvent)>, ladder: Ladder) -> Self {
        let (remedies, all, reason) = (Remedies::default(), Vec::new(), Reason::Reconnecting);
        Self { shared, events, ladder, remedies, all, last_id: 0, reason }
    }

    /// Closes all connections. The waits that the exchange demanded also apply to the next ones.
    pub(super) fn into_ladder(self) -> Ladder {
        self.ladder
    }

    /// Whether data arrived recently.
    pub(super) fn is_live(&self, now: Instant) -> bool {
        let stale_after = self.shared.config.stale_after;
        self.all.iter().any(|connection| connection.watchdog.is_live(now, stale_after))
    }

    /// Why no data arrives, if none does.
    pub(super) fn reason(&self) -> Reason {
        let is_silent = self.all.iter().any(|connection| connection.watchdog.last_data().is_some());
        if is_silent { Reason::NoData } else { self.reason }
    }

    fn get(&mut self, id: u64) -> Option<&mut FeedConnection> {
        self.all.iter_mut().find(|connection| connection.id == id)
    }

    /// Handles an event of a connection; text and demanded waits are passed on.
    pub(super) fn receive(&mut self, id: u64, event: SocketEvent, now: Instant) -> Option<FeedEvent> {
        let connection = self.get(id)?;
        match event {
            SocketEvent::Text(text) => return Some(FeedEvent::Text(text)),
            SocketEvent::Opened => {
                connection.is_open = true;
                tracing::info!(connection = id, "connected to the exchange");
            }
            SocketEvent::Ping => {
                if defect::is(Defect::FeedPingsAreData) {
                    connection.watchdog.data(now);
                }
            }
            SocketEvent::Binary => {
                self.shared.metrics.feed_bad_frames_total.of(BadFrame::Binary).inc();
                self.bad(id, now);
            }
            SocketEvent::Ended(failure, why) => {
                tracing::warn!(connection = id, why, "the connection to the exchange ended");
                let (reason, end) = match failure {
                    ConnectFailure::Ordinary => (Reason::Reconnecting, FeedEnd::Lost),
                    ConnectFailure::Rules => (Reason::RateLimited, FeedEnd::Rules),
                    ConnectFailure::Limited(wait) if wait > BAN => (Reason::Banned, FeedEnd::Limited),
                    ConnectFailure::Limited(_) => (Reason::RateLimited, FeedEnd::Limited),
                    ConnectFailure::Restricted => (Reason::Restricted, FeedEnd::Restricted),
                };
                self.reason = reason;
                self.end(id, failure, end, now);
                if let ConnectFailure::Limited(wait) = failure {
                    return Some(FeedEvent::Limited(wait));
                }
            }
        }
        None
    }

    /// The exchange has banned this address: no connection is made before this time.
    pub(super) fn banned(&mut self, until: Instant) {
        self.reason = Reason::Banned;
        self.ladder.wait_until(until);
    }

    /// An event of a stream arrived.
    pub(super) fn data(&mut self, id: u64, stream: &str, now: Instant) {
        let Some(connection) = self.get(id) else { return };
        connection.watchdog.data(now);
        connection.control.received(stream);
        let flowed = connection.watchdog.flowed(now);
        self.ladder.flowed(flowed);
    }

    /// An unusable frame arrived.
    pub(super) fn bad(&mut self, id: u64, now: Instant) {
        if self.get(id).is_some_and(|connection| connection.watchdog.bad()) {
            tracing::warn!(connection = id, "too many bad frames in a row");
            self.end(id, ConnectFailure::Ordinary, FeedEnd::BadFrames, now);
        }
    }

    pub(super) fn answered(&mut self, id: u64, request: u64, list: Option<Vec<String>>) {
        if !self.get(id).is_some_and(|connection| connection.control.answered(request, list)) {
            tracing::debug!(connection = id, request, "a response without a request");
        }
    }

    pub(super) fn refused(&mut self, id: u64, request: Option<u64>) {
        if let Some(connection) = self.get(id) {
            connection.control.refused(request);
        }
    }

    /// Acts on a stream that is silent while others deliver data.
    pub(super) fn remedy(&mut self, stream: &str, now: Instant) {
        match self.remedies.next(stream, now) {
            Silence::None => {}
            Silence::Again => {
                tracing::warn!(stream, "a stream is silent; resubscribing");
                self.shared.metrics.feed_resubscriptions_total.inc();
                self.all.iter_mut().for_each(|connection| connection.control.again(stream));
            }
            Silence::Replace => {
                self.ladder.turn();
                let ids: Vec<_> = self.all.iter().map(|connection| connection.id).collect();
                ids.into_iter().for_each(|id| self.rotate(id, "a stream stays silent"));
            }
        }
    }

    /// Replaces a connection, and keeps it until the new one delivers data.
    pub(super) fn rotate(&mut self, id: u64, why: &str) {
        if let Some(connection) = self.get(id).filter(|connection| !connection.is_old) {
            tracing::info!(connection = id, why, "replacing the connection to the exchange");
            connection.is_old = true;
            self.shared.metrics.feed_rotations_total.inc();
        }
    }

    fn end(&mut self, id: u64, failure: ConnectFailure, why: FeedEnd, now: Instant) {
        self.shared.metrics.feed_reconnects_total.of(why).inc();
        let is_replaced = self.get(id).is_some_and(|connection| connection.is_old) && self.all.len() > 1;
        self.all.retain(|connection| connection.id != id);
        if !is_replaced {
            self.ladder.failed(failure, now, chance());
        }
    }

    /// Handles the passing of time: connecting, subscribing, detecting silence, closing old connections.
    pub(super) fn tick(&mut self, streams: &BTreeSet<String>, now: Instant) {
        let has_new = self.all.iter().any(|connection| !connection.is_old);
        if !streams.is_empty() && !has_new && self.ladder.may_connect(now) {
            self.connect(now);
        }
        let stale_after = self.shared.config.stale_after;
        let (mut ended, mut aged) = (Vec::new(), Vec::new());
        for connection in self.all.iter_mut().filter(|connection| connection.is_open) {
            match connection.watchdog.judge(now, stale_after) {
                Silence::None => {}
                Silence::Again => {
                    // One stream is enough to see whether the connection delivers data.
                    if let Some(reference) = streams.iter().find(|stream| stream.ends_with("@ticker")) {
                        self.shared.metrics.feed_resubscriptions_total.inc();
                        connection.control.again(reference);
                    }
                }
                Silence::Replace => ended.push((connection.id, FeedEnd::Silent)),
            }
            if connection.ask(streams, now) {
                ended.push((connection.id, FeedEnd::Unanswered));
            }
            if now >= connection.leaves {
                aged.push(connection.id);
            }
        }
        aged.into_iter().for_each(|id| self.rotate(id, "its age"));
        for (id, why) in ended {
            if self.get(id).is_some() {
                tracing::warn!(connection = id, reason = why.as_str(), "closing the connection to the exchange");
                self.end(id, ConnectFailure::Ordinary, why, now);
            }
        }
        self.leave_old(streams, now);
        let live = self.all.iter().map(|connection| connection.control.live()).max().unwrap_or(0);
        self.shared.metrics.feed_streams.set(streams.len() as i64);
        self.shared.metrics.feed_streams_live.set(live as i64);
    }

    fn leave_old(&mut self, streams: &BTreeSet<String>, now: Instant) {
        let is_replaced = self.all.iter().any(|connection| {
            !connection.is_old && connection.control.is_settled(streams) && connection.watchdog.flowed(now) >= OVERLAP
        });
        if is_replaced {
            self.all.retain(|connection| !connection.is_old);
        }
    }

    fn connect(&mut self, now: Instant) {
        self.last_id += 1;
        let (messages, asked) = mpsc::channel(1);
        let sent = LastSent::default();
        let line = ConnectionParts {
            id: self.last_id,
            url: format!("{}/stream", self.shared.config.stream_url),
            address: self.ladder.attempt(now),
            events: self.events.clone(),
            recording: self.shared.recording.clone(),
            metrics: self.shared.metrics.clone(),
            sent: sent.clone(),
        };
        self.shared.tasks.spawn("feed connection", socket::run(line, asked));
        self.all.push(FeedConnection {
            id: self.last_id,
            messages,
            sent,
            control: StreamControl::default(),
            watchdog: Watchdog::new(now),
            is_open: false,
            leaves: leaves(now, self.shared.config.connection_age_max, chance()),
            is_old: false,
        });
    }
}

/// A random number.
fn chance() -> u64 {
    Uuid::new_v4().as_u128() as u64
}
