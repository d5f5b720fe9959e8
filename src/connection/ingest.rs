//! Publishes a producer's message to all its topics. Never sends an acknowledgement.

use tickgate_wire::command::Ingest;

use crate::{
    metrics::PublicationSource,
    publisher::{MsgName, PublishFailure, PublishRequest, Publisher, PublisherName},
};

/// Publishes a message to all its topics; `stored` only if all succeed, and published to none if one is refused in
/// advance. A retry with the same `msg_id` publishes only where the first attempt did not.
pub(super) async fn store(
    publisher: &Publisher,
    name: PublisherName<'_>,
    ingest: &Ingest,
) -> Result<(), PublishFailure> {
    let msg = MsgName { source: Some(&ingest.source), ..MsgName::new(ingest.msg_id.as_str(), name) };
    let requests = ingest.topics.iter().map(|topic| PublishRequest {
        channel: topic,
        user: None,
        payload: ingest.message.clone(),
        msg: Some(msg),
        door: PublicationSource::Ingest,
    });
    publisher.publish_together(requests.collect()).await
}
