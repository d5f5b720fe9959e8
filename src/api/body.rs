//! Reads request bodies and checks their type, size and pace. Never holds more than the limit.

use std::time::Duration;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, header},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::{ApiShared, Problem, ProblemKind};

/// Maximum number of bytes to read and discard of a body that is too big, and for how long: a client that receives the
/// response while it still sends may see a connection reset instead.
const DISCARD_BYTES_MAX: usize = 16 * 1024 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// The accepted formats of request bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFormat {
    Json,
    /// Newline-delimited JSON.
    Lines,
}

/// The format that `Content-Type` names, ignoring parameters; `None` for any other.
pub(super) fn form(headers: &HeaderMap) -> Option<BodyFormat> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Some(BodyFormat::Json)
    } else if essence.eq_ignore_ascii_case("application/x-ndjson") {
        Some(BodyFormat::Lines)
    } else {
        None
    }
}

/// The whole body, which must be declared as JSON.
pub(super) async fn json_bytes(shared: &ApiShared, request: Request) -> Result<Bytes, Problem> {
    if form(request.headers()) != Some(BodyFormat::Json) {
        return Err(Problem::new(
            ProblemKind::UnsupportedMediaType,
            "the body must be `Content-Type: application/json`",
        ));
    }
    let bytes_max = shared.config.limits.body_bytes_max;
    let too_big = || Problem::new(ProblemKind::MessageTooBig, format!("the body must not exceed {bytes_max} bytes"));
    let (parts, mut body) = request.into_parts();
    let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let declared: usize = header(header::CONTENT_LENGTH).and_then(|length| length.parse().ok()).unwrap_or(0);
    if declared > bytes_max {
        // A client that sent `Expect: 100-continue` gets the refusal at once.
        if declared <= DISCARD_BYTES_MAX && header(header::EXPECT).is_none() {
            discard(&mut body).await;
        }
        return Err(too_big());
    }
    let collected = Limited::new(&mut body, bytes_max).collect();
    match tokio::time::timeout(shared.patience.body_timeout, collected).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            discard(&mut body).await;
            Err(too_big())
        }
        Ok(Err(_)) => Err(Problem::invalid("the body is incomplete")),
        Err(_) => Err(Problem::new(ProblemKind::RequestTimeout, "the body did not arrive in time")),
    }
}

async fn discard(body: &mut Body) {
    let discarded = async {
        let mut left = DISCARD_BYTES_MAX;
        while left > 0
            && let Some(Ok(frame)) = body.frame().await
        {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        }
    };
    // After the timeout, the response is sent anyway.
    let _ = tokio::time::timeout(DISCARD_TIME, discarded).await;
}

/// The body, deserialized from JSON.
pub(super) async fn json<T: DeserializeOwned>(shared: &ApiShared, request: Request) -> Result<T, Problem> {
    let bytes = json_bytes(shared, request).await?;
    serde_json::from_slice(&bytes).map_err(|error| Problem::invalid(format!("the body is invalid: {error}")))
}
