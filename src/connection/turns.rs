//! Whose turn it is on an HTTP connection, and how long the client may take: for a request head, and between two
//! requests. Never reads a request.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::{
    Response,
    body::{Body, Frame, SizeHint},
    header,
};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// Timeouts for a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientTimeouts {
    /// From the first byte of a request (on a new connection: from the start) to the end of its head.
    pub(super) head: Duration,
    /// From the end of a response to the first byte of the next request.
    pub(super) idle: Duration,
}

/// The state of one connection, shared by its socket, its requests and its response bodies. All run in the connection's
/// task, which therefore checks the time after each change.
#[derive(Clone, Debug)]
pub(super) struct ConnectionTurns(Arc<Mutex<TurnState>>);

#[derive(Clone, Copy, Debug)]
struct TurnState {
    turn: HttpTurn,
    since: Instant,
    /// The response has no end: it stays open only while the client reads it.
    endless: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HttpTurn {
    /// The client sends a request head.
    Head,
    /// The request is being read and answered.
    Response,
    /// The client may send another request.
    Idle,
}

impl ConnectionTurns {
    /// Starts with the client's turn: its first request is due.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(TurnState { turn: HttpTurn::Head, since: Instant::now(), endless: false })))
    }

    fn set(&self, turn: HttpTurn) {
        *self.0.lock() = TurnState { turn, since: Instant::now(), endless: false };
    }

    /// A request head is complete.
    pub(super) fn asked(&self) {
        self.set(HttpTurn::Response);
    }

    /// The client's turn starts when the response has been read.
    pub(super) fn answer<B>(&self, response: Response<B>) -> Response<AnsweredBody<B>> {
        // Ends when the client disconnects; a client that shuts down its sending side sends nothing more.
        let events = response.headers().get(header::CONTENT_TYPE);
        self.0.lock().endless = events.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
        response.map(|body| AnsweredBody { body, turns: self.clone() })
    }

    /// The client sent something.
    pub(super) fn read(&self) {
        let idle = self.0.lock().turn == HttpTurn::Idle;
        if idle {
            self.set(HttpTurn::Head);
        }
    }

    /// Something was written to the client.
    pub(super) fn wrote(&self) {
        let mut state = self.0.lock();
        if state.turn == HttpTurn::Idle {
            // The rest of the response is still being sent.
            state.since = Instant::now();
        }
    }

    /// Whether the current response ends only when its reader leaves.
    pub(super) fn is_endless(&self) -> bool {
        self.0.lock().endless
    }

    fn deadline(&self, timeouts: ClientTimeouts) -> Option<Instant> {
        let TurnState { turn, since, .. } = *self.0.lock();
        match turn {
            HttpTurn::Head => Some(since + timeouts.head),
            HttpTurn::Response => None,
            HttpTurn::Idle => Some(since + timeouts.idle),
        }
    }

    /// Resolves when the client exceeded a timeout. Must be polled after the connection itself.
    pub(super) async fn over(&self, timeouts: ClientTimeouts) {
        let mut timer = pin!(sleep_until(Instant::now() + timeouts.head));
        poll_fn(|cx| {
            loop {
                let Some(deadline) = self.deadline(timeouts) else { return Poll::Pending };
                if deadline <= Instant::now() {
                    return Poll::Ready(());
                }
                // A later deadline needs no new timer before the old one expires.
                if deadline < timer.deadline() || timer.is_elapsed() {
                    timer.as_mut().reset(deadline);
                }
                ready!(timer.as_mut().poll(cx));
            }
        })
        .await;
    }
}

/// The body of a response, which is complete when it is dropped.
#[derive(Debug)]
pub(super) struct AnsweredBody<B> {
    body: B,
    turns: ConnectionTurns,
}

impl<B> Drop for AnsweredBody<B> {
    fn drop(&mut self) {
        self.turns.set(HttpTurn::Idle);
    }
}

impl<B: Body + Unpin> Body for AnsweredBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
