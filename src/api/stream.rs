//! Publications as newline-delimited JSON on one long request: one result line per input line, in order, while the
//! input still comes. Never reads ahead of what it may have under way, so a slow reader or a slow Redis slows the
//! sender.

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
    Lifecycle, Phase, Problem, ProblemKind, Shared, access,
    entry::Outcome,
    lines::{Line, LineCutter},
};

/// Publications of one stream that may wait for their outcome, in number and in bytes: enough for several pipelines to
/// Redis, so that what many topics have waiting meets in their subscribers' outboxes.
const UNDER_WAY_MAX: usize = 1024;
const UNDER_WAY_BYTES_MAX: usize = 4 << 20;
/// Result lines joined into one write when they are there anyway.
const JOINED_MAX: usize = 256;
/// What a line may have beyond its payload: keys, names, a `msg_id`, spaces.
const ENVELOPE_BYTES_MAX: usize = 4 * 1024;

/// Where the lines of one request come from.
struct Input {
    chunks: BodyDataStream,
    cutter: LineCutter,
    lifecycle: Lifecycle,
    idle_timeout: Duration,
    end: End,
    /// Held until the last result is out.
    _permit: OwnedSemaphorePermit,
}

/// Whether more can come.
#[derive(PartialEq, Eq)]
enum End {
    Open,
    /// The body is whole: what is left of it is a line.
    Whole,
    Over,
}

impl Input {
    /// The next line of those that are there.
    fn line(&mut self) -> Option<Line> {
        self.cutter.next().or_else(|| {
            let last = (self.end == End::Whole).then(|| self.cutter.finish()).flatten();
            if self.end == End::Whole {
                self.end = End::Over;
            }
            last
        })
    }

    /// Waits for more lines, or the end: of the body, of the sender's connection, of patience, or because the replica
    /// drains. Lines without a result were not taken and can be sent elsewhere.
    async fn read(&mut self) {
        let chunk = tokio::select! {
            chunk = tokio::time::timeout(self.idle_timeout, self.chunks.next()) => chunk,
            () = self.lifecycle.draining() => return self.end = End::Over,
        };
        match chunk {
            Ok(Some(Ok(bytes))) => self.cutter.push(&bytes),
            // A broken body ends in half a line, which is not the sender's word.
            Ok(Some(Err(_))) | Err(_) => self.end = End::Over,
            Ok(None) => self.end = End::Whole,
        }
    }
}

/// The lines of one request on their way through the backplane.
struct Run {
    shared: Arc<Shared>,
    input: Input,
    key: Arc<ApiKey>,
    line_bytes_max: usize,
    /// In the order of the lines. Only the first is waited for: those behind it are answered by the same pipeline as
    /// a rule, and cost no waking.
    under_way: VecDeque<UnderWay>,
    under_way_bytes: usize,
}

/// A line that was handed over.
struct UnderWay {
    bytes: usize,
    outcome: Pin<Box<dyn Future<Output = Outcome> + Send>>,
}

impl Run {
    /// The next results, all that are there anyway. `None` after the last.
    async fn results(&mut self) -> Option<Bytes> {
        loop {
            // Handed over as they are reached, so the order of the lines is the order of publication.
            while self.has_room()
                && let Some(line) = self.input.line()
            {
                let bytes = line.text.as_ref().map_or(0, Bytes::len);
                let outcome = Box::pin(outcome(&self.shared, &line, self.line_bytes_max, &self.key));
                self.under_way_bytes += bytes;
                self.under_way.push_back(UnderWay { bytes, outcome });
            }
            let (waits, reads, has_room) = (!self.under_way.is_empty(), self.input.end == End::Open, self.has_room());
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

/// The first outcome, and those behind it that are there.
async fn arrived(under_way: &mut VecDeque<UnderWay>, bytes: &mut usize) -> Vec<Outcome> {
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

/// Answers the request with the stream of its results.
pub(super) async fn publish(shared: &Arc<Shared>, request: Request) -> Result<Response, Problem> {
    if shared.lifecycle.phase() == Phase::Draining {
        return Err(access::overloaded("the replica is draining; connect to another one"));
    }
    let permit = Arc::clone(&shared.streams)
        .try_acquire_owned()
        .map_err(|_| access::overloaded("too many publishing streams are open"))?;
    let key = access::admitted_by(request.extensions())?;
    let asks_first = request.headers().contains_key(header::EXPECT);
    let line_bytes_max = shared.config.limits.payload_bytes_max + ENVELOPE_BYTES_MAX;
    let mut input = Input {
        chunks: request.into_body().into_data_stream(),
        cutter: LineCutter::new(line_bytes_max),
        lifecycle: shared.lifecycle.clone(),
        idle_timeout: shared.patience.idle_timeout,
        end: End::Open,
        _permit: permit,
    };
    // `Expect: 100-continue` is answered when the body is first read, which must be before the response begins.
    if asks_first {
        input.read().await;
    }
    let run =
        Run { shared: Arc::clone(shared), input, key, line_bytes_max, under_way: VecDeque::new(), under_way_bytes: 0 };
    let results = stream::unfold(run, async |mut run| run.results().await.map(|text| (Ok::<_, Infallible>(text), run)));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(results)).into_response())
}

fn outcome(
    shared: &Shared,
    line: &Line,
    bytes_max: usize,
    key: &ApiKey,
) -> impl Future<Output = Outcome> + Send + use<> {
    let number = line.number;
    let result = line.text.as_ref().map(|text| shared.hand_over(text, None, key));
    async move {
        let result = match result {
            Some(result) => result.await,
            None => Err(Problem::new(ProblemKind::MessageTooBig, format!("a line may have {bytes_max} bytes"))),
        };
        Outcome::new(Some(number), result)
    }
}

fn joined(outcomes: &[Outcome]) -> Bytes {
    let mut text = Vec::with_capacity(outcomes.len() * 64);
    for outcome in outcomes {
        // Plain data into memory: can't fail.
        if serde_json::to_writer(&mut text, outcome).is_ok() {
            text.push(b'\n');
        }
    }
    text.into()
}
