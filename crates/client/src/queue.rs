//! The bounded queue of events to the application. Each event carries the cursors that move when it is handled. While the
//! queue is full, the connection is not read.

use std::collections::{BTreeSet, VecDeque};

use tokio::sync::mpsc::{Sender, error::TrySendError};

use crate::{
    event::{ClientState, Event},
    positions::Move,
};

/// Maximum number of unknown notice types that are reported.
const UNKNOWN_MAX: usize = 64;

/// An event for the application, and the cursors that move when it is handled.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub event: Option<Event>,
    pub moves: Vec<Move>,
}

/// The queue to the application. This is its only sender.
#[derive(Debug)]
pub(crate) struct EventQueue {
    deliveries: Sender<Delivery>,
    /// Events that do not fit in the queue: at most those of one frame, and a state.
    pending: VecDeque<Delivery>,
    state: &'static str,
    unknown: BTreeSet<String>,
}

impl EventQueue {
    pub(crate) fn new(deliveries: Sender<Delivery>) -> Self {
        Self { deliveries, pending: VecDeque::new(), state: "", unknown: BTreeSet::new() }
    }

    /// Delivers an event as soon as there is room for it.
    pub(crate) fn deliver(&mut self, event: Option<Event>, moves: Vec<Move>) {
        if event.is_none() && moves.is_empty() {
            return;
        }
        let mut delivery = Delivery { event, moves };
        if self.pending.is_empty() {
            match self.deliveries.try_send(delivery) {
                Err(TrySendError::Full(unsent)) => delivery = unsent,
                // The application has dropped its client.
                Ok(()) | Err(TrySendError::Closed(_)) => return,
            }
        }
        // Only the newest pending state is kept, so that a long outage does not fill the memory.
        let is_state = |delivery: &Delivery| matches!(delivery.event, Some(Event::State(_)));
        if is_state(&delivery) {
            self.pending.pop_back_if(|last| is_state(last));
        }
        self.pending.push_back(delivery);
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.deliver(Some(event), Vec::new());
    }

    pub(crate) fn moves(&mut self, moves: Vec<Move>) {
        self.deliver(None, moves);
    }

    /// Reports a state if it has changed.
    pub(crate) fn state(&mut self, state: ClientState) {
        if state.name() != self.state || matches!(state, ClientState::Waiting { .. }) {
            self.state = state.name();
            self.event(Event::State(state));
        }
    }

    /// Reports an unknown notice type once.
    pub(crate) fn unknown(&mut self, kind: &str) {
        if self.unknown.len() < UNKNOWN_MAX && self.unknown.insert(kind.to_owned()) {
            self.event(Event::Unknown { kind: kind.to_owned() });
        }
    }

    /// Whether nothing is pending.
    pub(crate) fn has_room(&self) -> bool {
        self.pending.is_empty()
    }

    /// Completes when the application has dropped its client.
    pub(crate) async fn closed(&self) {
        self.deliveries.closed().await;
    }

    /// Completes when there is room for a pending event. Cancel safe.
    pub(crate) async fn room(&self) {
        // No other sender can take the room.
        let _ = self.deliveries.reserve().await;
    }

    /// Delivers the oldest pending event.
    pub(crate) fn pass_on(&mut self) {
        if let Some(delivery) = self.pending.pop_front()
            && let Err(TrySendError::Full(unsent)) = self.deliveries.try_send(delivery)
        {
            self.pending.push_front(unsent);
        }
    }

    /// Delivers all pending events.
    pub(crate) async fn flush(&mut self) {
        while let Some(delivery) = self.pending.pop_front() {
            if self.deliveries.send(delivery).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn only_the_newest_waiting_state_is_kept() {
        let (deliveries, mut taken) = mpsc::channel(1);
        let mut queue = EventQueue::new(deliveries);
        queue.state(ClientState::Connecting);
        queue.state(ClientState::Connecting);
        queue.state(ClientState::CatchingUp);
        queue.unknown("news");
        queue.unknown("news");
        queue.state(ClientState::Stale);
        queue.state(ClientState::Live);
        assert!(!queue.has_room());
        let mut seen = Vec::new();
        while let Ok(delivery) = taken.try_recv() {
            seen.push(format!("{:?}", delivery.event.unwrap()));
            queue.pass_on();
        }
        let expected = ["State(Connecting)", "State(CatchingUp)", "Unknown { kind: \"news\" }", "State(Live)"];
        assert_eq!(seen, expected);
        assert!(queue.has_room());
    }
}
