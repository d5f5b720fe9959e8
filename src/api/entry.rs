//! One publication of a backend: its JSON form, its submission and its outcome. Never reads a request body.

use std::borrow::Cow;

use bytes::Bytes;
use futures_util::future::{Either, ready};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tickgate_wire::model::StreamId;

use super::{ApiShared, Problem, ProblemKind, access};
use crate::{
    auth::ApiKey,
    backplane::PublishAck,
    config::Right,
    metrics::{KeyUse, PublicationSource},
    problem::millis,
    publisher::{MsgName, PublishFailure, PublishRequest, PublisherName},
};

/// One publication as written by a backend. Unknown keys are refused: a misspelt `msg_id` would make retries unsafe.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublicationEntry<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    user: Option<String>,
    #[serde(borrow)]
    data: &'a RawValue,
    msg_id: Option<String>,
    /// Whether to count the subscribers that may have received it.
    #[serde(default)]
    count: bool,
}

/// The response for a stored publication.
#[derive(Serialize)]
pub(super) struct StoredResponse {
    /// `null` for topics without retention.
    id: Option<StreamId>,
    duplicate: bool,
    /// It is below the topic's minimum level.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    left_out: bool,
    /// Present if requested and available.
    #[serde(skip_serializing_if = "Option::is_none")]
    subscribers: Option<u64>,
}

/// The outcome of one publication among several.
#[derive(Serialize)]
pub(super) struct EntryOutcome {
    /// Number of the input line, from 1; absent in batches, whose outcomes keep their order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) line: Option<u64>,
    #[serde(flatten)]
    result: OutcomeResult,
}

#[derive(Serialize)]
#[serde(untagged)]
enum OutcomeResult {
    Accepted(StoredResponse),
    Failed {
        status: u16,
        error: &'static str,
        detail: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        msg_id: Option<String>,
    },
}

impl EntryOutcome {
    pub(super) fn new(line: Option<u64>, result: Result<StoredResponse, Problem>) -> Self {
        let result = match result {
            Ok(accepted) => OutcomeResult::Accepted(accepted),
            Err(problem) => OutcomeResult::Failed {
                status: problem.status.as_u16(),
                error: problem.kind.name(),
                detail: problem.detail.into_owned(),
                retry_after_ms: problem.retry_after.map(millis),
                msg_id: problem.msg_id,
            },
        };
        Self { line, result }
    }
}

impl ApiShared {
    /// Submits one publication at once, in the order of the calls; the future waits only for its outcome.
    pub(super) fn hand_over(
        &self,
        text: &[u8],
        idempotency_key: Option<&str>,
        key: &ApiKey,
    ) -> impl Future<Output = Result<StoredResponse, Problem>> + Send + use<> {
        let entry: Result<PublicationEntry<'_>, _> = serde_json::from_slice(text).map_err(|error| not_an_entry(&error));
        match entry.and_then(|entry| self.allow(entry, key)) {
            Ok(entry) => Either::Right(self.hand_over_entry(&entry, idempotency_key, key)),
            Err(problem) => Either::Left(ready(Err(problem))),
        }
    }

    /// Checks that the key may publish to this channel and is within its rate limit.
    fn allow<'a>(&self, entry: PublicationEntry<'a>, key: &ApiKey) -> Result<PublicationEntry<'a>, Problem> {
        access::spend(self, key)?;
        if !key.reaches(&entry.channel) {
            self.metrics.api_key_requests_total.of(&key.name, KeyUse::Forbidden).inc();
            self.audit.forbidden_topic(&key.name, Right::Publish.as_str(), &entry.channel);
            let detail = format!("the API key {} may not publish to {:?}", key.name, entry.channel);
            return Err(Problem::new(ProblemKind::Forbidden, detail));
        }
        Ok(entry)
    }

    fn hand_over_entry(
        &self,
        entry: &PublicationEntry<'_>,
        idempotency_key: Option<&str>,
        key: &ApiKey,
    ) -> impl Future<Output = Result<StoredResponse, Problem>> + Send + use<> {
        let msg_id = entry.msg_id.as_deref().or(idempotency_key);
        let outcome = self.publisher.publish(PublishRequest {
            channel: &entry.channel,
            user: entry.user.as_deref(),
            // Copied, because a slice would keep the whole body in memory as long as the message.
            payload: Bytes::copy_from_slice(entry.data.get().as_bytes()),
            msg: msg_id.map(|msg_id| MsgName::new(msg_id, PublisherName::Key(&key.name))),
            door: PublicationSource::Http,
        });
        let msg_id = msg_id.map(str::to_owned);
        let asked = if entry.count { self.publisher.audience(&entry.channel, entry.user.as_deref()) } else { None };
        let counting = asked.map(|audience| (self.registry.clone(), audience));
        async move {
            let Some(stored) = outcome.await.map_err(|failure| problem_of(failure, msg_id))? else {
                return Ok(StoredResponse { id: None, duplicate: false, left_out: true, subscribers: None });
            };
            let PublishAck { id, duplicate } = stored;
            let subscribers = match &counting {
                Some((registry, audience)) => registry.count(Some(audience)).await,
                None => None,
            };
            Ok(StoredResponse { id, duplicate, left_out: false, subscribers })
        }
    }
}

fn not_an_entry(error: &serde_json::Error) -> Problem {
    Problem::invalid(format!(
        "a publication has the form {{\"channel\", \"user\"?, \"data\", \"msg_id\"?, \"count\"?}}: {error}"
    ))
}

/// The problem for a failure: invalid, certainly not stored, or unknown.
fn problem_of(failure: PublishFailure, msg_id: Option<String>) -> Problem {
    match failure {
        PublishFailure::Invalid(detail) => Problem::invalid(detail),
        PublishFailure::TooLarge { max } => {
            Problem::new(ProblemKind::MessageTooBig, format!("`data` must not exceed {max} bytes"))
        }
        PublishFailure::Refused(refusal) => refusal.into(),
        PublishFailure::Unknown(detail) => {
            let advice = match msg_id {
                Some(_) => "retry with the same msg_id",
                None => "the publication may be stored; set a msg_id to make retries safe",
            };
            Problem { msg_id, ..Problem::new(ProblemKind::OutcomeUnknown, format!("{detail}; {advice}")) }
        }
        PublishFailure::Reused => Problem::new(ProblemKind::MsgIdReused, failure.to_string()),
    }
}
