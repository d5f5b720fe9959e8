//! Where a producer's messages go: each is published to every topic that it belongs to. Never acknowledges one.

use tickgate_wire::command::Ingest;

use crate::{
    metrics::Door,
    publisher::{PublishFailure, PublishRequest, Publisher},
};

/// Publishes a message to all its topics; stored only when all of them have it, and nowhere when one of them can't. A retry with the same `msg_id` publishes
/// only where the first attempt did not.
pub(super) async fn store(publisher: &Publisher, ingest: &Ingest) -> Result<(), PublishFailure> {
    let requests = ingest.topics.iter().map(|topic| PublishRequest {
        channel: topic,
        user: None,
        payload: ingest.message.clone(),
        msg_id: Some(ingest.msg_id.as_str()),
        door: Door::Ingest,
    });
    publisher.publish_together(requests.collect()).await
}
