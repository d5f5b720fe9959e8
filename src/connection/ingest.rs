//! The envelope dialect of producers: what producers send is stored and published, then acknowledged. A message is
//! acknowledged only when all that it goes to has it.

use bytes::{Bytes, BytesMut};
use tickgate_wire::{
    code::ErrorCode,
    envelope::{self, Body, Envelope, EnvelopeFailure, InvalidEnvelope, Sender},
};
use uuid::Uuid;

use super::{
    link::Clock,
    perform::{code_of, retry_after_ms},
    run::{Connection, text},
};
use crate::{
    metrics::{self, Door},
    publisher::{PublishFailure, PublishRequest},
    session::Fault,
};

/// How the gateway names itself in envelopes: their `source`.
const SOURCE: &str = "server";
const EVENTS_TOPIC: &str = "ingest_events";
const LOGS_TOPIC: &str = "logs";

impl Connection {
    pub(super) async fn ingest(&mut self, decoded: Result<(Envelope, Bytes), InvalidEnvelope>) {
        let (envelope, text) = match decoded {
            Ok(envelope) => envelope,
            Err(invalid) => return self.fail_producer(&EnvelopeFailure::from(&invalid)),
        };
        match self.store(&envelope, &text).await {
            Ok(()) if envelope.wants_ack() => {
                self.envelope(|out, sender| envelope::ack(out, sender, &envelope.msg_id, Clock::unix_ms()));
            }
            Ok(()) => {}
            Err(failure) => self.fail_producer(&EnvelopeFailure {
                code: code_of(&failure),
                message: &failure.to_string(),
                msg_id: Some(&envelope.msg_id),
                retry_after_ms: retry_after_ms(&failure),
            }),
        }
    }

    /// Publishes to every topic that the message belongs to. A retry with the same `msg_id` publishes only where the
    /// first try did not get to.
    async fn store(&self, envelope: &Envelope, text: &Bytes) -> Result<(), PublishFailure> {
        match &envelope.body {
            Body::Event(event) => {
                self.check_right(EVENTS_TOPIC)?;
                let run = format!("run:{}", event.run_id);
                let (all, one) = (self.put(EVENTS_TOPIC, envelope, text), self.put(&run, envelope, text));
                all.await?;
                one.await
            }
            Body::Log(log) if log.level.is_published() => {
                self.check_right(LOGS_TOPIC)?;
                self.put(LOGS_TOPIC, envelope, text).await
            }
            _ => Ok(()),
        }
    }

    fn check_right(&self, topic: &str) -> Result<(), PublishFailure> {
        let allowed = match self.session.identity() {
            Some(identity) => identity.rights.may_publish(topic),
            // Let in by an API key, or in development mode.
            None => true,
        };
        if allowed {
            Ok(())
        } else {
            Err(PublishFailure::Invalid(format!("the token has no publish right for {topic}")))
        }
    }

    fn put(
        &self,
        channel: &str,
        envelope: &Envelope,
        text: &Bytes,
    ) -> impl Future<Output = Result<(), PublishFailure>> + use<> {
        let payload = text.clone();
        let msg_id = Some(envelope.msg_id.as_str());
        let request = PublishRequest { channel, user: None, payload, msg_id, door: Door::Ingest };
        let published = self.gateway.publisher.publish(request);
        async move { published.await.map(|_| ()) }
    }

    pub(super) fn tell_producer(&self, fault: &Fault) {
        self.fail_producer(&EnvelopeFailure {
            code: fault.code,
            message: &fault.message,
            msg_id: None,
            retry_after_ms: fault.retry_after_ms,
        });
    }

    fn fail_producer(&self, failure: &EnvelopeFailure<'_>) {
        self.gateway.metrics.errors_total.of(metrics::Code::of(ErrorCode::number(failure.code))).inc();
        self.envelope(|out, sender| envelope::error(out, sender, failure, Clock::unix_ms()));
    }

    fn envelope(&self, write: impl FnOnce(&mut BytesMut, Sender<'_>)) {
        let sender = Sender { source: SOURCE, msg_id: Uuid::new_v4() };
        self.link.outbox.send(text(|out| write(out, sender)));
    }
}
