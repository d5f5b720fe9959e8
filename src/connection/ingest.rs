//! Where a producer's messages go: each is published to every topic that it belongs to. Never acknowledges one.

use bytes::Bytes;
use tickgate_wire::envelope::{Body, Envelope};

use crate::{
    auth::Identity,
    metrics::Door,
    publisher::{PublishFailure, PublishRequest, Publisher},
};

const EVENTS_TOPIC: &str = "ingest_events";
const LOGS_TOPIC: &str = "logs";

/// Publishes a message to all its topics; stored only when all of them have it. A retry with the same `msg_id` publishes
/// only where the first attempt did not.
pub(super) async fn store(
    publisher: &Publisher,
    identity: Option<&Identity>,
    envelope: &Envelope,
    text: &Bytes,
) -> Result<(), PublishFailure> {
    match &envelope.body {
        Body::Event(event) => {
            check_right(identity, EVENTS_TOPIC)?;
            let run = format!("run:{}", event.run_id);
            let all = publish(publisher, EVENTS_TOPIC, envelope, text);
            let one = publish(publisher, &run, envelope, text);
            all.await?;
            one.await
        }
        Body::Log(log) if log.level.is_published() => {
            check_right(identity, LOGS_TOPIC)?;
            publish(publisher, LOGS_TOPIC, envelope, text).await
        }
        _ => Ok(()),
    }
}

/// A producer without an identity was admitted by an API key, or in development mode.
fn check_right(identity: Option<&Identity>, topic: &str) -> Result<(), PublishFailure> {
    if identity.is_none_or(|identity| identity.rights.may_publish(topic)) {
        Ok(())
    } else {
        Err(PublishFailure::Invalid(format!("the token has no publish right for {topic}")))
    }
}

fn publish(
    publisher: &Publisher,
    channel: &str,
    envelope: &Envelope,
    text: &Bytes,
) -> impl Future<Output = Result<(), PublishFailure>> + use<> {
    let (payload, msg_id) = (text.clone(), Some(envelope.msg_id.as_str()));
    let published = publisher.publish(PublishRequest { channel, user: None, payload, msg_id, door: Door::Ingest });
    async move { published.await.map(|_| ()) }
}
