//! Interprets Redis's response to a publication: the result for its publisher, and the ids that this replica is
//! responsible for from then on. Pure: the lane sends, this decides.

use std::sync::Arc;

use tickgate_wire::model::{Publication, StreamId};

use super::ledger::TopicLedger;
use crate::{
    backplane::{PublishAck, PublishError, PublishRefusal},
    redis_link::{Keys, RedisFailure, RefusalKind},
};

/// The response to one publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PublishOutcome {
    Stored(StreamId),
    /// Published without a stream.
    Sent,
    Duplicate(Option<StreamId>),
    /// The `msg_id` belongs to another publication: nothing was stored.
    Reused,
    /// A publication of that later turn came first: nothing was stored.
    Superseded {
        by: u64,
    },
    Failed(RedisFailure),
}

impl PublishOutcome {
    /// A response that no script gives: the effect is unknown.
    pub(super) const STRANGE: Self = Self::Failed(RedisFailure::Closed);

    /// Parses the script's response: an id or `-`, optionally followed by ` duplicate`.
    pub(super) fn parse(text: &str) -> Self {
        let (id, is_duplicate) = match text.strip_suffix(" duplicate") {
            Some(id) => (id, true),
            None => (text, false),
        };
        match (id, id.parse()) {
            ("-", _) if is_duplicate => Self::Duplicate(None),
            ("-", _) => Self::Sent,
            (_, Ok(id)) if is_duplicate => Self::Duplicate(Some(id)),
            (_, Ok(id)) => Self::Stored(id),
            _ => Self::STRANGE,
        }
    }

    /// The id with which the publication is acknowledged.
    pub(super) const fn id(&self) -> Option<StreamId> {
        match self {
            Self::Stored(id) | Self::Duplicate(Some(id)) => Some(*id),
            Self::Sent | Self::Duplicate(None) | Self::Reused | Self::Superseded { .. } | Self::Failed(_) => None,
        }
    }
}

/// A publication with its response.
#[derive(Clone, Copy, Debug)]
pub(super) struct PublishResponse<'a> {
    pub(super) publication: &'a Publication,
    /// Its position in the order of submission.
    pub(super) number: u64,
    /// It was sent before and not stored.
    pub(super) is_repeat: bool,
    /// It may have reached the server.
    pub(super) was_sent: bool,
    /// The replica may still acknowledge responses of the generation in which it was sent.
    pub(super) is_vouched: bool,
    /// What is missing of the durability that its rule requires.
    pub(super) shortfall: Option<&'a Arc<str>>,
}

/// What to do with it.
#[derive(Debug)]
pub(super) enum PublishDecision {
    Answer(Result<PublishAck, PublishError>),
    /// Redis lost the script or is in another generation: nothing was stored, and the publication is sent again.
    SendAgain,
}

impl TopicLedger {
    /// Decides one publication. From now on, an acknowledged id must not be lost without a report.
    pub(super) fn settle(
        &mut self,
        keys: &Keys,
        returned: &PublishResponse<'_>,
        outcome: &PublishOutcome,
    ) -> PublishDecision {
        let topic = &returned.publication.topic;
        match outcome {
            PublishOutcome::Stored(id) => {
                self.store(topic, returned.number);
                PublishDecision::Answer(self.accept(keys, returned, *id, false))
            }
            PublishOutcome::Sent => PublishDecision::Answer(Ok(PublishAck { id: None, duplicate: false })),
            // The replica that stored it may have ended, or never received the response.
            PublishOutcome::Duplicate(Some(id)) => PublishDecision::Answer(self.accept(keys, returned, *id, true)),
            PublishOutcome::Duplicate(None) => PublishDecision::Answer(Ok(PublishAck { id: None, duplicate: true })),
            PublishOutcome::Reused => PublishDecision::Answer(Err(PublishError::Reused)),
            PublishOutcome::Superseded { by } => {
                PublishDecision::Answer(Err(PublishError::Refused(PublishRefusal::Superseded { by: *by })))
            }
            PublishOutcome::Failed(failure) if failure.asks_again() && !returned.is_repeat => {
                PublishDecision::SendAgain
            }
            PublishOutcome::Failed(failure) => PublishDecision::Answer(Err(self.refused(returned, failure))),
        }
    }

    /// The error for the publisher of a failed publication.
    pub(super) fn refused(&mut self, returned: &PublishResponse<'_>, failure: &RedisFailure) -> PublishError {
        self.fail(&returned.publication.topic);
        verdict(failure, returned.was_sent)
    }

    fn accept(
        &mut self,
        keys: &Keys,
        returned: &PublishResponse<'_>,
        id: StreamId,
        duplicate: bool,
    ) -> Result<PublishAck, PublishError> {
        if !returned.is_vouched {
            return Err(PublishError::Unknown("redis changed before the response".into()));
        }
        self.acknowledge(keys, &returned.publication.topic, id);
        match returned.shortfall {
            Some(text) => Err(PublishError::Unknown(Arc::clone(text))),
            None => Ok(PublishAck { id: Some(id), duplicate }),
        }
    }
}

/// The result of a failure for the publisher.
fn verdict(failure: &RedisFailure, was_sent: bool) -> PublishError {
    PublishError::Refused(match failure {
        RedisFailure::Closed if was_sent => {
            return PublishError::Unknown("the connection was lost before the response".into());
        }
        RedisFailure::TimedOut if was_sent => return PublishError::Unknown("no response in time".into()),
        RedisFailure::Disconnected
        | RedisFailure::Unreachable(_)
        | RedisFailure::NoPrimary(_)
        | RedisFailure::Superseded
        | RedisFailure::Closed
        | RedisFailure::TimedOut => PublishRefusal::Disconnected,
        RedisFailure::Refused { kind, .. } => refusal(*kind),
        RedisFailure::PoolWait => PublishRefusal::Overloaded,
        RedisFailure::TooOld(_)
        | RedisFailure::WrongMode(_)
        | RedisFailure::OtherFormat(_)
        | RedisFailure::Other(_) => PublishRefusal::Denied,
    })
}

/// The publisher's error for an error of Redis.
const fn refusal(kind: RefusalKind) -> PublishRefusal {
    match kind {
        RefusalKind::Loading => PublishRefusal::Loading,
        RefusalKind::ReadOnly | RefusalKind::MasterDown | RefusalKind::Moved | RefusalKind::Ask => {
            PublishRefusal::ReadOnly
        }
        RefusalKind::Oom => PublishRefusal::OutOfMemory,
        RefusalKind::Misconf => PublishRefusal::Disk,
        RefusalKind::NoReplicas => PublishRefusal::NoReplicas,
        RefusalKind::Busy | RefusalKind::TryAgain | RefusalKind::ClusterDown => PublishRefusal::Busy,
        RefusalKind::Stale => PublishRefusal::Disconnected,
        RefusalKind::NoScript | RefusalKind::Format | RefusalKind::CrossSlot | RefusalKind::WrongType => {
            PublishRefusal::Denied
        }
        RefusalKind::NoPerm | RefusalKind::NoAuth | RefusalKind::WrongPass => PublishRefusal::Denied,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backplane::redis::for_tests;

    fn answered(kind: RefusalKind) -> RedisFailure {
        RedisFailure::Refused { kind, text: kind.code().into() }
    }

    fn publication() -> Publication {
        for_tests::publication("orders", for_tests::rule(100, Duration::ZERO))
    }

    fn returned(publication: &Publication) -> PublishResponse<'_> {
        PublishResponse { publication, number: 1, is_repeat: false, was_sent: true, is_vouched: true, shortfall: None }
    }

    fn keys() -> Keys {
        Keys::new("x:")
    }

    fn claimed(ledger: &TopicLedger) -> Vec<StreamId> {
        ledger.claims(None).unwrap().into_iter().map(|(_, id)| id).collect()
    }

    #[test]
    fn each_response_has_one_meaning() {
        assert_eq!(PublishOutcome::parse("5-6"), PublishOutcome::Stored(StreamId::new(5, 6)));
        assert_eq!(PublishOutcome::parse("5-6 duplicate"), PublishOutcome::Duplicate(Some(StreamId::new(5, 6))));
        assert_eq!(PublishOutcome::parse("-"), PublishOutcome::Sent);
        assert_eq!(PublishOutcome::parse("- duplicate"), PublishOutcome::Duplicate(None));
        for strange in ["", "hello", "5", " duplicate"] {
            assert_eq!(PublishOutcome::parse(strange), PublishOutcome::STRANGE, "{strange}");
        }
    }

    #[test]
    fn acknowledged_ids_are_recorded_whichever_replica_stored_them() {
        let (publication, id) = (publication(), StreamId::new(5, 6));
        for (outcome, duplicate) in [(PublishOutcome::Stored(id), false), (PublishOutcome::Duplicate(Some(id)), true)] {
            let mut ledger = TopicLedger::default();
            ledger.open(&keys(), &publication.topic);
            let settled = ledger.settle(&keys(), &returned(&publication), &outcome);
            assert!(
                matches!(settled, PublishDecision::Answer(Ok(published)) if published == PublishAck { id: Some(id), duplicate })
            );
            assert_eq!(ledger.is_overtaken(&publication.topic, 0), !duplicate);
            assert_eq!(claimed(&ledger), [id]);
        }
    }

    #[test]
    fn a_response_of_an_earlier_generation_is_not_acknowledged() {
        let (publication, mut ledger) = (publication(), TopicLedger::default());
        let late = PublishResponse { is_vouched: false, ..returned(&publication) };
        let settled = ledger.settle(&keys(), &late, &PublishOutcome::Stored(StreamId::new(5, 6)));
        assert!(matches!(settled, PublishDecision::Answer(Err(PublishError::Unknown(_)))));
        assert!(claimed(&ledger).is_empty());
    }

    #[test]
    fn a_publication_without_the_required_durability_is_unknown_but_recorded() {
        let (publication, text) = (publication(), Arc::from("not on the disk"));
        let mut ledger = TopicLedger::default();
        let returned = PublishResponse { shortfall: Some(&text), ..returned(&publication) };
        let settled = ledger.settle(&keys(), &returned, &PublishOutcome::Stored(StreamId::new(5, 6)));
        assert!(matches!(settled, PublishDecision::Answer(Err(PublishError::Unknown(why))) if why == text));
        assert_eq!(claimed(&ledger), [StreamId::new(5, 6)]);
    }

    #[test]
    fn a_publication_is_sent_once_more_if_the_script_was_lost() {
        let (publication, mut ledger) = (publication(), TopicLedger::default());
        let no_script = PublishOutcome::Failed(answered(RefusalKind::NoScript));
        assert!(matches!(ledger.settle(&keys(), &returned(&publication), &no_script), PublishDecision::SendAgain));
        let again = PublishResponse { is_repeat: true, ..returned(&publication) };
        let settled = ledger.settle(&keys(), &again, &no_script);
        assert!(matches!(settled, PublishDecision::Answer(Err(PublishError::Refused(PublishRefusal::Denied)))));
    }

    #[test]
    fn only_publications_that_may_have_run_are_unknown() {
        for silent in [RedisFailure::TimedOut, RedisFailure::Closed] {
            assert!(silent.in_doubt() && matches!(verdict(&silent, true), PublishError::Unknown(_)));
            assert!(matches!(verdict(&silent, false), PublishError::Refused(PublishRefusal::Disconnected)));
        }
        for kind in RefusalKind::ALL {
            assert!(matches!(verdict(&answered(*kind), true), PublishError::Refused(_)), "{kind:?}");
        }
    }
}
