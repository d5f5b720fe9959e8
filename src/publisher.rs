//! The only entry point for publications: validates them, finds their topic, and passes them to the backplane.
//!
//! **Invariant: one entry point, one path.** Clients, producers, the HTTP API and feeds all publish through this
//! module, and everything returns through the backplane, even to this replica. Never delivers anything itself.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use thiserror::Error;
use tickgate_wire::{
    model::{Publication, Topic, TopicRule, TopicRules, UserId, check_name},
    payload::check_payload,
    reply::TYPES,
};

use crate::{
    backplane::{Backplane, LeaseTurn, PublishAck, PublishError, PublishRefusal},
    config::KnownChannels,
    log_limit::LogLimit,
    metrics::{Metrics, PublicationClass, PublicationSource, PublishResult},
};

mod once;

pub use once::{MsgName, PublisherName};

/// Minimum time between two log lines about publications that no client can receive.
const MISTAKE_INTERVAL: Duration = Duration::from_secs(60);

/// Accepts publications. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Publisher {
    backplane: Backplane,
    topics: Arc<TopicRules>,
    limits: PublishLimits,
    metrics: Arc<Metrics>,
    mistakes: Option<Arc<UnreceivedPublications>>,
}

/// Finds publications that no client can receive.
#[derive(Debug)]
struct UnreceivedPublications {
    known: KnownChannels,
    refused: bool,
    log: LogLimit,
}

/// Limits of one publication.
#[derive(Clone, Copy, Debug)]
pub struct PublishLimits {
    /// `limits.payload_bytes_max`.
    pub payload_bytes_max: usize,
    /// `limits.json_depth_max`.
    pub json_depth_max: usize,
    /// Whether to log publications that look like the gateway's own messages.
    pub development: bool,
}

/// A publication to check and publish.
#[derive(Clone, Debug)]
pub struct PublishRequest<'a> {
    /// A public topic, or with `user` a private channel of that user.
    pub channel: &'a str,
    /// The owner of the topic; `None`: it is public.
    pub user: Option<&'a str>,
    /// One JSON object.
    pub payload: Bytes,
    /// Makes a retry safe: the same id is published only once while its result is remembered.
    pub msg: Option<MsgName<'a>>,
    /// How it reached the gateway, for the metrics.
    pub door: PublicationSource,
}

/// Why a publication was not acknowledged.
#[derive(Clone, Debug, Error)]
pub enum PublishFailure {
    /// The publisher's mistake: the sentence states what is expected.
    #[error("{0}")]
    Invalid(String),
    /// The payload exceeds its limit.
    #[error("the payload is larger than {max} bytes")]
    TooLarge {
        /// The limit, in bytes.
        max: usize,
    },
    /// Certainly not stored.
    #[error("refused: {0}")]
    Refused(PublishRefusal),
    /// The publication may or may not be stored; safe to retry with the same `msg_id`.
    #[error("the outcome is unknown: {0}")]
    Unknown(Arc<str>),
    /// Certainly not stored; a retry cannot succeed.
    #[error("the `msg_id` was already used for another publication; each publication requires its own")]
    Reused,
}

impl From<PublishError> for PublishFailure {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Refused(refusal) => Self::Refused(refusal),
            PublishError::Unknown(why) => Self::Unknown(why),
            PublishError::Reused => Self::Reused,
        }
    }
}

impl PublishFailure {
    const fn label(&self) -> PublishResult {
        match self {
            Self::Invalid(_) => PublishResult::Invalid,
            Self::TooLarge { .. } => PublishResult::TooLarge,
            Self::Refused(_) => PublishResult::Refused,
            Self::Unknown(_) => PublishResult::Unknown,
            Self::Reused => PublishResult::Reused,
        }
    }
}

impl Publisher {
    /// Publishes over the backplane, by these rules and within these limits.
    #[must_use]
    pub fn new(backplane: Backplane, topics: Arc<TopicRules>, limits: PublishLimits, metrics: Arc<Metrics>) -> Self {
        Self { backplane, topics, limits, metrics, mistakes: None }
    }

    /// Finds publications that no client can receive, and refuses them or only logs them.
    #[must_use]
    pub fn with_known_channels(self, known: KnownChannels, refuse: bool) -> Self {
        let mistakes = UnreceivedPublications { known, refused: refuse, log: LogLimit::new(MISTAKE_INTERVAL) };
        Self { mistakes: Some(Arc::new(mistakes)), ..self }
    }

    /// The label under which a channel's subscriptions are counted; `None` if no topic can have that name.
    #[must_use]
    pub fn audience(&self, channel: &str, user: Option<&str>) -> Option<Topic> {
        check_name(channel).ok()?;
        let user = user.map(UserId::new).transpose().ok()?;
        Some(self.route(channel, user.as_ref()).0.audience(channel))
    }

    /// Publishes. The order of the calls is the order of the publications: the future only waits for the result, so a
    /// caller may have many in progress. `None`: its level is below that of the topic's rule, and it is not published.
    ///
    /// # Errors
    /// [`PublishFailure`], within a bounded time.
    pub fn publish(
        &self,
        request: PublishRequest<'_>,
    ) -> impl Future<Output = Result<Option<PublishAck>, PublishFailure>> + Send + use<> {
        self.publish_in_turn(request, None)
    }

    /// Publishes under a lease.
    ///
    /// # Errors
    /// As [`Publisher::publish`]; also if the lease's turn has ended.
    pub fn publish_in_turn(
        &self,
        request: PublishRequest<'_>,
        turn: Option<LeaseTurn>,
    ) -> impl Future<Output = Result<Option<PublishAck>, PublishFailure>> + Send + use<> {
        self.hand_over(request.door, self.check(request), turn)
    }

    /// Publishes all of these in order, or none if one of them is invalid.
    ///
    /// # Errors
    /// [`PublishFailure`] of the first that failed; the others may have been stored.
    pub fn publish_together(
        &self,
        requests: Vec<PublishRequest<'_>>,
    ) -> impl Future<Output = Result<(), PublishFailure>> + Send + use<> {
        let check = |request: PublishRequest<'_>| {
            let door = request.door;
            self.check(request).map(|publication| (door, publication)).map_err(|failure| (door, failure))
        };
        // All are handed over before the first is awaited.
        let under_way: Vec<_> = match requests.into_iter().map(check).collect::<Result<Vec<_>, _>>() {
            Ok(all) => all.into_iter().map(|(door, publication)| self.hand_over(door, Ok(publication), None)).collect(),
            Err((door, failure)) => vec![self.hand_over(door, Err(failure), None)],
        };
        async move {
            for outcome in under_way {
                outcome.await?;
            }
            Ok(())
        }
    }

    fn hand_over(
        &self,
        door: PublicationSource,
        checked: Result<Publication, PublishFailure>,
        turn: Option<LeaseTurn>,
    ) -> impl Future<Output = Result<Option<PublishAck>, PublishFailure>> + Send + use<> {
        let class = PublicationClass::from(checked.as_ref().ok().map(|publication| publication.rule.class));
        let left_out = |publication: &Publication| publication.rule.leaves_out(&publication.payload);
        let under_way = checked.map(|publication| match left_out(&publication) {
            true => None,
            false => Some(self.backplane.publish_in_turn(publication, turn)),
        });
        let metrics = self.metrics.clone();
        async move {
            let result = match under_way {
                Ok(Some(answer)) => answer.await.map(Some).map_err(PublishFailure::from),
                Ok(None) => Ok(None),
                Err(failure) => Err(failure),
            };
            let label = match &result {
                Ok(None) => PublishResult::LeftOut,
                Ok(Some(PublishAck { duplicate: false, .. })) => PublishResult::Accepted,
                Ok(Some(PublishAck { duplicate: true, .. })) => PublishResult::Duplicate,
                Err(failure) => failure.label(),
            };
            metrics.publications_total.of((door, class, label)).inc();
            result
        }
    }

    fn check(&self, request: PublishRequest<'_>) -> Result<Publication, PublishFailure> {
        let max = self.limits.payload_bytes_max;
        if request.payload.len() > max {
            return Err(PublishFailure::TooLarge { max });
        }
        let invalid = |error: &dyn std::fmt::Display| PublishFailure::Invalid(error.to_string());
        check_payload(&request.payload, self.limits.json_depth_max).map_err(|error| invalid(&error))?;
        let digest = |msg: &MsgName<'_>| msg.once((request.channel, request.user), &request.payload);
        let once = request.msg.as_ref().map(digest).transpose().map_err(|error| invalid(&error))?;
        check_name(request.channel).map_err(|error| PublishFailure::Invalid(format!("`channel` is {error}")))?;
        let user = request.user.map(UserId::new).transpose().map_err(|error| invalid(&error))?;
        if self.limits.development {
            warn_of_type(&request);
        }
        let is_written_by_hand = matches!(request.door, PublicationSource::Http | PublicationSource::Socket);
        if let Some(mistakes) = self.mistakes.as_ref().filter(|_| is_written_by_hand) {
            mistakes.look_at(&request)?;
        }
        let (topic, channel, rule) = self.route(request.channel, user.as_ref());
        Ok(Publication { topic, channel, payload: request.payload, once, rule })
    }

    fn route(&self, channel: &str, user: Option<&UserId>) -> (Topic, Option<Arc<str>>, Arc<TopicRule>) {
        match user {
            Some(user) => {
                let private = self.topics.of_private(user, channel);
                (private.topic, private.in_user_stream.then(|| channel.into()), private.rule.clone())
            }
            None => (Topic::from_wire(channel), None, self.topics.of_name(channel).clone()),
        }
    }
}

impl UnreceivedPublications {
    fn look_at(&self, request: &PublishRequest<'_>) -> Result<(), PublishFailure> {
        let Some(mistake) = self.known.mistake(request.channel, request.user.is_some()) else { return Ok(()) };
        if self.refused {
            return Err(PublishFailure::Invalid(mistake));
        }
        if let Some(left_out) = self.log.admit(Instant::now()) {
            let left_out = Some(left_out).filter(|count| *count > 0);
            tracing::warn!(channel = request.channel, mistake, left_out, "no client can receive a publication");
        }
        Ok(())
    }
}

/// Logs that a publication has the type of one of the gateway's own messages: valid, but a trap for clients that check
/// `type` before `_meta`.
fn warn_of_type(request: &PublishRequest<'_>) {
    #[derive(serde::Deserialize)]
    struct PayloadType<'a> {
        #[serde(borrow)]
        r#type: Option<std::borrow::Cow<'a, str>>,
    }
    let Ok(PayloadType { r#type: Some(kind) }) = serde_json::from_slice(&request.payload) else { return };
    if TYPES.contains(&&*kind) {
        let channel = request.channel;
        tracing::warn!(channel, kind = &*kind, "a publication has the type of a message of the gateway");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backplane::{Memory, ReadLimits},
        config::Config,
    };

    #[tokio::test]
    async fn a_group_with_one_invalid_publication_is_not_stored() {
        let (config, backplane) = (Config::development(), Backplane::Memory(Memory::new()));
        backplane.start(Box::new(|_| {}));
        let limits = PublishLimits { payload_bytes_max: 1_000, json_depth_max: 8, development: false };
        let publisher = Publisher::new(backplane.clone(), config.topics.clone(), limits, Metrics::new());
        let request = |channel| PublishRequest {
            channel,
            user: None,
            payload: Bytes::from_static(b"{}"),
            msg: Some(MsgName { msg_id: "m", publisher: PublisherName::Nobody, source: None, content: None }),
            door: PublicationSource::Ingest,
        };
        let stored = async || {
            let limits = ReadLimits::new(10, 1_000);
            backplane.newest(&Topic::public("logs").unwrap(), limits).await.unwrap().messages.len()
        };
        let failed = publisher.publish_together(vec![request("logs"), request("run:a,b")]).await;
        assert!(matches!(failed, Err(PublishFailure::Invalid(_))) && stored().await == 0, "{failed:?}");
        assert!(publisher.publish_together(vec![request("logs"), request("run:a")]).await.is_ok());
        assert_eq!(stored().await, 1);
    }
}
