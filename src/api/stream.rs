//! Publications as newline-delimited JSON in one long request: one result line per input line, in order, while input
//! still arrives. Never reads more than may be in flight, so a slow reader or a slow Redis slows the sender.

use std::{
    collections::VecDeque, convert::Infallible, future::poll_fn, pin::Pin, sync::Arc, task::Poll, time::Duration,
};

use axum::{
    body::{Body, BodyDataStream},
    extract::Request,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::OwnedSemaphorePermit;

use crate::auth::ApiKey;

use super::{
    ApiShared, Lifecycle, LifecyclePhase, Problem, ProblemKind, access,
    entry::EntryOutcome,
    lines::{InputLine, LineCutter},
};

/// Maximum number and size of a stream's unconfirmed publications: enough for several pipelines to Redis, so that
/// waiting publications of many topics arrive in their subscribers' outboxes together.
const UNDER_WAY_MAX: usize = 1024;
const UNDER_WAY_BYTES_MAX: usize = 4 << 20;
/// Maximum number of available result lines joined into one write.
const JOINED_MAX: usize = 256;
/// Maximum size of a line apart from its payload: keys, names, `msg_id`, spaces.
const ENVELOPE_BYTES_MAX: usize = 4 * 1024;

/// The input lines of one request.
struct RequestLines {
    chunks: BodyDataStream,
    cutter: LineCutter,
    lifecycle: Lifecycle,
    idle_timeout: Duration,
    end: InputEnd,
    /// Held until the last result is sent.
    _permit: OwnedSemaphorePermit,
}

/// Whether more input can arrive.
#[derive(PartialEq, Eq)]
enum InputEnd {
    Open,
    /// The body is complete: the rest is a line.
    Whole,
    Over,
}

impl RequestLines {
    /// The next available line.
    fn line(&mut self) -> Option<InputLine> {
        self.cutter.next().or_else(|| {
            let last = (self.end == InputEnd::Whole).then(|| self.cutter.finish()).flatten();
            if self.end == InputEnd::Whole {
                self.end = InputEnd::Over;
            }
            last
        })
    }

    /// Waits for more lines or the end: of the body, the connection or the timeout, or because the replica drains.
    /// Lines without a result were not accepted and can be sent elsewhere.
    async fn read(&mut self) {
        let chunk = tokio::select! {
            chunk = tokio::time::timeout(self.idle_timeout, self.chunks.next()) => chunk,
            () = self.lifecycle.draining() => return self.end = InputEnd::Over,
        };
        match chunk {
            Ok(Some(Ok(bytes))) => self.cutter.push(&bytes),
            // A broken body ends in half a line, which must not be published.
            Ok(Some(Err(_))) | Err(_) => self.end = InputEnd::Over,
            Ok(None) => self.end = InputEnd::Whole,
        }
    }
}

/// The accepted lines of one request, until their results are sent.
struct PendingResults {
    shared: Arc<ApiShared>,
    input: RequestLines,
    key: Arc<ApiKey>,
    line_bytes_max: usize,
    /// In the order of the lines. Only the first is awaited: the same pipeline usually completes those behind it,
    /// without another wake-up.
    under_way: VecDeque<SubmittedLine>,
    under_way_bytes: usize,
}

/// A submitted line.
struct SubmittedLine {
    bytes: usize,
    outcome: Pin<Box<dyn Future<Output = EntryOutcome> + Send>>,
}

impl PendingResults {
    /// The next results, all that are available. `None` after the last.
    async fn results(&mut self) -> Option<Bytes> {
        loop {
            // Submitted as they are read, so the order of lines is the order of publication.
            while self.has_room()
                && let Some(line) = self.input.line()
            {
                let bytes = line.text.as_ref().map_or(0, Bytes::len);
                let outcome = Box::pin(outcome(&self.shared, &line, self.line_bytes_max, &self.key));
                self.under_way_bytes += bytes;
                self.under_way.push_back(SubmittedLine { bytes, outcome });
            }
            let (waits, reads, has_room) =
                (!self.under_way.is_empty(), self.input.end == InputEnd::Open, self.has_room());
            if !waits && !reads {
                return None;
            }
            tokio::select! {
                biased;
                outcomes = arrived(&mut self.under_way, &mut self.under_way_bytes), if waits => {
                    return Some(joined(&outcomes));
                }
                () = self.input.read(), if reads && has_room => {}
            }
        }
    }

    fn has_room(&self) -> bool {
        self.under_way.len() < UNDER_WAY_MAX && self.under_way_bytes < UNDER_WAY_BYTES_MAX
    }
}

/// The first outcome, and the available ones behind it.
async fn arrived(under_way: &mut VecDeque<SubmittedLine>, bytes: &mut usize) -> Vec<EntryOutcome> {
    let mut outcomes = Vec::new();
    poll_fn(move |context| {
        while outcomes.len() < JOINED_MAX
            && let Some(first) = under_way.front_mut()
            && let Poll::Ready(outcome) = first.outcome.as_mut().poll(context)
        {
            *bytes -= under_way.pop_front().map_or(0, |first| first.bytes);
            outcomes.push(outcome);
        }
        if outcomes.is_empty() { Poll::Pending } else { Poll::Ready(std::mem::take(&mut outcomes)) }
    })
    .await
}

/// Responds with the stream of results.
pub(super) async fn publish(shared: &Arc<ApiShared>, request: Request) -> Result<Response, Problem> {
    if shared.lifecycle.phase() == LifecyclePhase::Draining {
        return Err(access::overloaded("the replica is draining; connect to another one"));
    }
    let permit = Arc::clone(&shared.streams)
        .try_acquire_owned()
        .map_err(|_| access::overloaded("too many publishing streams are open"))?;
    let key = access::admitted_by(request.extensions())?;
    let asks_first = request.headers().contains_key(header::EXPECT);
    let line_bytes_max = shared.config.limits.payload_bytes_max + ENVELOPE_BYTES_MAX;
    let mut input = RequestLines {
        chunks: request.into_body().into_data_stream(),
        cutter: LineCutter::new(line_bytes_max),
        lifecycle: shared.lifecycle.clone(),
        idle_timeout: shared.patience.idle_timeout,
        end: InputEnd::Open,
        _permit: permit,
    };
    // `100 Continue` is sent when the body is first read, which must be before the response begins.
    if asks_first {
        input.read().await;
    }
    let run = PendingResults {
        shared: Arc::clone(shared),
        input,
        key,
        line_bytes_max,
        under_way: VecDeque::new(),
        under_way_bytes: 0,
    };
    let results = stream::unfold(run, async |mut run| run.results().await.map(|text| (Ok::<_, Infallible>(text), run)));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(results)).into_response())
}

fn outcome(
    shared: &ApiShared,
    line: &InputLine,
    bytes_max: usize,
    key: &ApiKey,
) -> impl Future<Output = EntryOutcome> + Send + use<> {
    let number = line.number;
    let result = line.text.as_ref().map(|text| shared.hand_over(text, None, key));
    async move {
        let result = match result {
            Some(result) => result.await,
            None => Err(Problem::new(ProblemKind::MessageTooBig, format!("a line must not exceed {bytes_max} bytes"))),
        };
        EntryOutcome::new(Some(number), result)
    }
}

fn joined(outcomes: &[EntryOutcome]) -> Bytes {
    let mut text = Vec::with_capacity(outcomes.len() * 64);
    for outcome in outcomes {
        // Serializing plain data into memory cannot fail.
        if serde_json::to_writer(&mut text, outcome).is_ok() {
            text.push(b'\n');
        }
    }
    text.into()
}
