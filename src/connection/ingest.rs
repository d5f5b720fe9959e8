//! Where a producer's messages go: each is published to every topic that it belongs to. Never acknowledges one.

use tickgate_wire::command::Ingest;

use crate::{
    metrics::Door,
    publisher::{PublishFailure, PublishRequest, Publisher},
};

/// Publishes a message to all its topics; stored only when all of them have it. A retry with the same `msg_id` publishes
/// only where the first attempt did not.
pub(super) async fn store(publisher: &Publisher, ingest: &Ingest) -> Result<(), PublishFailure> {
    let requests = ingest.topics.iter().map(|topic| PublishRequest {
        channel: topic,
        user: None,
        payload: ingest.message.clone(),
        msg_id: Some(ingest.msg_id.as_str()),
        door: Door::Ingest,
    });
    // All are published before the first is awaited.
    let published: Vec<_> = requests.map(|request| publisher.publish(request)).collect();
    for outcome in published {
        outcome.await?;
    }
    Ok(())
}
