//! Publications as newline-delimited JSON on one long request: one result line per input line, in order, while the
//! input still comes. Never reads ahead of what it may have under way, so a slow reader or a slow Redis slows the
//! sender.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, BodyDataStream},
    extract::Request,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::{Either, ready},
    stream,
};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Kind, Lifecycle, Phase, Problem, Shared, access,
    lines::{Line, LineCutter},
    publish::Outcome,
};

/// Publications of one stream that may wait for their outcome.
const UNDER_WAY_MAX: usize = 256;
/// Result lines joined into one write when they are there anyway.
const JOINED_MAX: usize = 64;
/// What a line may have beyond its payload: keys, names, a `msg_id`, spaces.
const ENVELOPE_BYTES_MAX: usize = 4 * 1024;

/// Where the lines of one request come from.
struct Input {
    chunks: BodyDataStream,
    cutter: LineCutter,
    lifecycle: Lifecycle,
    idle_timeout: Duration,
    ended: bool,
    /// Held until the last result is out.
    _permit: OwnedSemaphorePermit,
}

impl Input {
    /// The next line. `None` at the end: of the body, of the sender's connection, of patience, or when the replica
    /// drains; lines without a result were not taken and can be sent elsewhere.
    async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(line) = self.cutter.next() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            let chunk = tokio::select! {
                chunk = tokio::time::timeout(self.idle_timeout, self.chunks.next()) => chunk,
                () = self.lifecycle.draining() => return None,
            };
            match chunk {
                Ok(Some(Ok(bytes))) => self.cutter.push(&bytes),
                // A broken body ends in half a line, which is not the sender's word.
                Ok(Some(Err(_))) | Err(_) => return None,
                Ok(None) => {
                    self.ended = true;
                    if let Some(last) = self.cutter.finish() {
                        return Some(last);
                    }
                }
            }
        }
    }
}

/// Answers the request with the stream of its results.
pub(super) async fn publish(shared: &Arc<Shared>, request: Request) -> Result<Response, Problem> {
    if shared.lifecycle.phase() == Phase::Draining {
        return Err(access::overloaded("the replica is draining; connect to another one"));
    }
    let permit = Arc::clone(&shared.streams)
        .try_acquire_owned()
        .map_err(|_| access::overloaded("too many publishing streams are open"))?;
    let asks_first = request.headers().contains_key(header::EXPECT);
    let line_bytes_max = shared.config.limits.payload_bytes_max + ENVELOPE_BYTES_MAX;
    let mut input = Input {
        chunks: request.into_body().into_data_stream(),
        cutter: LineCutter::new(line_bytes_max),
        lifecycle: shared.lifecycle.clone(),
        idle_timeout: shared.patience.idle_timeout,
        ended: false,
        _permit: permit,
    };
    // `Expect: 100-continue` is answered when the body is first read, which must be before the response begins.
    let first = if asks_first { input.next().await } else { None };

    let lines = stream::unfold(input, async |mut input| input.next().await.map(|line| (line, input)));
    let shared = Arc::clone(shared);
    let results = stream::iter(first)
        .chain(lines)
        // The closure hands each line over as it is reached, so the order of the lines is the order of publication.
        .map(move |line| outcome(&shared, &line, line_bytes_max))
        .buffered(UNDER_WAY_MAX)
        .ready_chunks(JOINED_MAX)
        .map(|outcomes| Ok::<_, Infallible>(joined(&outcomes)));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(results)).into_response())
}

fn outcome(shared: &Shared, line: &Line, bytes_max: usize) -> impl Future<Output = Outcome> + Send + use<> {
    let number = line.number;
    let result = match &line.text {
        Some(text) => Either::Right(shared.hand_over(text, None)),
        None => {
            let problem = Problem::new(Kind::TooBig, format!("a line may have {bytes_max} bytes"));
            Either::Left(ready(Err(problem)))
        }
    };
    async move { Outcome::new(Some(number), result.await) }
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
