//! Sends a message to one connection. Never stored, and never sent twice.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tickgate_wire::{payload::check_payload, push::TO_CONNECTION};

use super::{ApiShared, Problem, ProblemKind, access, body, sessions::connection_id};
use crate::{
    config::Right,
    metrics::KeyUse,
    registry::{Inquiry, SendResult},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SendBody<'a> {
    connection_id: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Sends an object to one connection on any replica.
pub(super) async fn send(State(shared): State<Arc<ApiShared>>, request: Request) -> Result<Response, Problem> {
    let key = access::admitted_by(request.extensions())?;
    let body = body::json_bytes(&shared, request).await?;
    let SendBody { connection_id: id, data } = serde_json::from_slice(&body).map_err(|error| {
        Problem::invalid(format!("a message has the form {{\"connection_id\", \"data\"}}: {error}"))
    })?;
    access::spend(&shared, &key)?;
    // It belongs to no topic, so a key that is limited to topics has no right to it.
    if !key.reaches(TO_CONNECTION) {
        shared.metrics.api_key_requests_total.of(&key.name, KeyUse::Forbidden).inc();
        shared.audit.forbidden_topic(&key.name, Right::Publish.as_str(), TO_CONNECTION);
        let detail = format!("the API key {} is limited to topics, and this is sent to a connection", key.name);
        return Err(Problem::new(ProblemKind::Forbidden, detail));
    }
    let (id, limits) = (connection_id(id)?, &shared.config.limits);
    let max = limits.payload_bytes_max;
    if data.get().len() > max {
        return Err(Problem::new(ProblemKind::MessageTooBig, format!("`data` must not exceed {max} bytes")));
    }
    check_payload(data.get().as_bytes(), limits.json_depth_max).map_err(|error| Problem::invalid(error.to_string()))?;
    let inquiry = Inquiry::Send { connection_id: id, payload: data.get().to_owned() };
    match shared.registry.inquire(&inquiry).await?.sent() {
        Some(SendResult::Taken) => Ok(Json(json!({ "sent": true })).into_response()),
        Some(SendResult::Full) => Err(access::overloaded("the queue of this connection is full; nothing was sent")),
        Some(SendResult::Unknown) => Err(Problem::new(ProblemKind::NotFound, "no open connection has this id")),
        None => {
            let detail = "not all replicas responded: the message may have been sent";
            Err(Problem::new(ProblemKind::OutcomeUnknown, detail))
        }
    }
}
