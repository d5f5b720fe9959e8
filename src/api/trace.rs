//! The live trace of one user or topic on this replica, as lines, for a limited time. Never shows a payload.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::Body,
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use tickgate_wire::model::{Topic, UserId};

use super::{
    ApiShared, Problem, access,
    admin::{TraceSubject, seconds_of},
    body,
};
use crate::audit::AuditTarget;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TraceRequest {
    user: Option<String>,
    topic: Option<String>,
    seconds: u64,
}

impl TraceRequest {
    fn subject(&self) -> Result<TraceSubject, Problem> {
        match (&self.user, &self.topic) {
            (Some(user), None) => {
                let user = UserId::new(user).map_err(|error| Problem::invalid(format!("`user`: {error}")))?;
                Ok(TraceSubject::User(user))
            }
            (None, Some(topic)) => {
                let topic = Topic::public(topic).map_err(|error| Problem::invalid(format!("`topic` is {error}")))?;
                Ok(TraceSubject::Topic(topic))
            }
            _ => Err(Problem::invalid("exactly one of `user` and `topic` is required")),
        }
    }
}

/// Responds with one line per event.
pub(super) async fn trace(State(shared): State<Arc<ApiShared>>, request: Request) -> Result<Response, Problem> {
    let caller = access::caller(request.extensions());
    let wanted: TraceRequest = body::json(&shared, request).await?;
    let (subject, time) = (wanted.subject()?, seconds_of(wanted.seconds)?);
    let (seconds, found) = (Some(wanted.seconds), shared.operator.trace(subject.clone(), time));
    let target = match &subject {
        TraceSubject::User(user) => AuditTarget { user: Some(user), seconds, ..AuditTarget::default() },
        TraceSubject::Topic(topic) => AuditTarget { topic: Some(topic.as_str()), seconds, ..AuditTarget::default() },
    };
    let failure = "the maximum number of traces is running";
    shared.audit.action(&caller, "traced", target, found.is_none().then_some(&failure));
    let mut lines = found.ok_or_else(|| access::overloaded(failure))?;
    let lines = stream::poll_fn(move |cx| lines.poll_recv(cx)).map(Ok::<_, Infallible>);
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(lines)).into_response())
}
