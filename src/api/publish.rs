//! Publications of backends, one or a batch a request. Never says "stored" before it is, and never "not stored" when
//! that is not certain.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Problem, ProblemKind, Shared, access,
    body::{self, Form},
    entry::Outcome,
    stream,
};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Publications of one batch.
const BATCH_MAX: usize = 1_000;

/// One publication as JSON, or any number as lines.
pub(super) async fn publish(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    match body::form(request.headers()) {
        Some(Form::Json) => publish_one(&shared, request).await,
        Some(Form::Lines) => stream::publish(&shared, request).await,
        None => Err(Problem::new(
            ProblemKind::UnsupportedMediaType,
            "the body must be `Content-Type: application/json`, or `application/x-ndjson` with one publication a line",
        )),
    }
}

async fn publish_one(shared: &Shared, request: Request) -> Result<Response, Problem> {
    let msg_id = idempotency_key(request.headers())?;
    let key = access::admitted_by(request.extensions())?;
    let body = body::json_bytes(shared, request).await?;
    Ok(Json(shared.hand_over(&body, msg_id.as_deref(), &key).await?).into_response())
}

/// The header by which a retry is known. One that can't be used is an error: without it, a retry would be sent twice.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    match (keys.next(), keys.next()) {
        (None, _) => Ok(None),
        (Some(key), None) => match key.to_str() {
            Ok(key) => Ok(Some(key.to_owned())),
            Err(_) => Err(Problem::invalid("`Idempotency-Key` must be ASCII text")),
        },
        (Some(_), Some(_)) => Err(Problem::invalid("more than one `Idempotency-Key` came with the request")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch<'a> {
    #[serde(borrow)]
    publications: Vec<&'a RawValue>,
}

#[derive(Serialize)]
struct BatchAnswer {
    results: Vec<Outcome>,
}

/// A batch: handed over in its order, answered in its order; one that fails does not stop the others.
pub(super) async fn batch(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    let key = access::admitted_by(request.extensions())?;
    let body = body::json_bytes(&shared, request).await?;
    let batch: Batch<'_> = serde_json::from_slice(&body)
        .map_err(|error| Problem::invalid(format!("a batch is {{\"publications\": [..]}}: {error}")))?;
    if batch.publications.len() > BATCH_MAX {
        return Err(Problem::new(ProblemKind::MessageTooBig, format!("a batch may have {BATCH_MAX} publications")));
    }
    let waiting: Vec<_> =
        batch.publications.iter().map(|raw| shared.hand_over(raw.get().as_bytes(), None, &key)).collect();
    let results = join_all(waiting).await.into_iter().map(|result| Outcome::new(None, result)).collect();
    Ok(Json(BatchAnswer { results }).into_response())
}
