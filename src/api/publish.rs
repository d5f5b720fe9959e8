//! Publishing by backends, one publication or a batch per request. Reports "stored" only after it is, and "not stored"
//! only if that is certain.

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
    ApiShared, Problem, ProblemKind, access,
    body::{self, BodyFormat},
    entry::EntryOutcome,
    stream,
};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Maximum number of publications per batch.
const BATCH_MAX: usize = 1_000;

/// Accepts one publication as JSON, or any number as lines.
pub(super) async fn publish(State(shared): State<Arc<ApiShared>>, request: Request) -> Result<Response, Problem> {
    match body::form(request.headers()) {
        Some(BodyFormat::Json) => publish_one(&shared, request).await,
        Some(BodyFormat::Lines) => stream::publish(&shared, request).await,
        None => Err(Problem::new(
            ProblemKind::UnsupportedMediaType,
            "the body must be `Content-Type: application/json`, or `application/x-ndjson` with a publication per line",
        )),
    }
}

async fn publish_one(shared: &ApiShared, request: Request) -> Result<Response, Problem> {
    let msg_id = idempotency_key(request.headers())?;
    let key = access::admitted_by(request.extensions())?;
    let body = body::json_bytes(shared, request).await?;
    Ok(Json(shared.hand_over(&body, msg_id.as_deref(), &key).await?).into_response())
}

/// The header that identifies a retry. An invalid one is an error: ignoring it would publish a retry twice.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    match (keys.next(), keys.next()) {
        (None, _) => Ok(None),
        (Some(key), None) => match key.to_str() {
            Ok(key) => Ok(Some(key.to_owned())),
            Err(_) => Err(Problem::invalid("`Idempotency-Key` must be ASCII text")),
        },
        (Some(_), Some(_)) => Err(Problem::invalid("the request has more than one `Idempotency-Key`")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublicationBatch<'a> {
    #[serde(borrow)]
    publications: Vec<&'a RawValue>,
}

#[derive(Serialize)]
struct BatchAnswer {
    results: Vec<EntryOutcome>,
}

/// Accepts a batch: publications are submitted and reported in order; one failure does not stop the others.
pub(super) async fn batch(State(shared): State<Arc<ApiShared>>, request: Request) -> Result<Response, Problem> {
    let key = access::admitted_by(request.extensions())?;
    let body = body::json_bytes(&shared, request).await?;
    let batch: PublicationBatch<'_> = serde_json::from_slice(&body)
        .map_err(|error| Problem::invalid(format!("a batch has the form {{\"publications\": [..]}}: {error}")))?;
    if batch.publications.len() > BATCH_MAX {
        return Err(Problem::new(
            ProblemKind::MessageTooBig,
            format!("a batch must not exceed {BATCH_MAX} publications"),
        ));
    }
    let waiting: Vec<_> =
        batch.publications.iter().map(|raw| shared.hand_over(raw.get().as_bytes(), None, &key)).collect();
    let results = join_all(waiting).await.into_iter().map(|result| EntryOutcome::new(None, result)).collect();
    Ok(Json(BatchAnswer { results }).into_response())
}
