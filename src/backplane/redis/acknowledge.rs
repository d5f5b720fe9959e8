//! Interprets Redis's response to a publication: the result for its publisher, and the ids that this replica is
//! responsible for from then on. Pure: the lane sends, this decides.

use std::sync::Arc;

use tickgate_wire::model::{Publication, StreamId};

use super::ledger::Ledger;
use crate::{
    backplane::{PublishError, Published, Refusal},
    redis_link::{Failure, Keys, RefusalKind},
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
    Failed(Failure),
}

impl PublishOutcome {
    /// A response that no script gives: the effect is unknown.
    pub(super) const STRANGE: Self = Self::Failed(Failure::Closed);

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
pub(super) struct Returned<'a> {
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
pub(super) enum Settled {
    Answer(Result<Published, PublishError>),
    /// Redis lost the script or is in another generation: nothing was stored, and the publication is sent again.
    SendAgain,
}

impl Ledger {
    /// Decides one publication. From now on, an acknowledged id must not be lost without a report.
    pub(super) fn settle(&mut self, keys: &Keys, returned: &Returned<'_>, outcome: &PublishOutcome) -> Settled {
        let topic = &returned.publication.topic;
        match outcome {
            PublishOutcome::Stored(id) => {
                self.store(topic, returned.number);
                Settled::Answer(self.accept(keys, returned, *id, false))
            }
            PublishOutcome::Sent => Settled::Answer(Ok(Published { id: None, duplicate: false })),
            // The replica that stored it may have ended, or never received the response.
            PublishOutcome::Duplicate(Some(id)) => Settled::Answer(self.accept(keys, returned, *id, true)),
            PublishOutcome::Duplicate(None) => Settled::Answer(Ok(Published { id: None, duplicate: true })),
            PublishOutcome::Reused => Settled::Answer(Err(PublishError::Reused)),
            PublishOutcome::Superseded { by } => {
                Settled::Answer(Err(PublishError::Refused(Refusal::Superseded { by: *by })))
            }
            PublishOutcome::Failed(failure) if failure.asks_again() && !returned.is_repeat => Settled::SendAgain,
            PublishOutcome::Failed(failure) => Settled::Answer(Err(self.refused(returned, failure))),
        }
    }

    /// The error for the publisher of a failed publication.
    pub(super) fn refused(&mut self, returned: &Returned<'_>, failure: &Failure) -> PublishError {
        self.fail(&returned.publication.topic);
        verdict(failure, returned.was_sent)
    }

    fn accept(
        &mut self,
        keys: &Keys,
        returned: &Returned<'_>,
        id: StreamId,
        duplicate: bool,
    ) -> Result<Published, PublishError> {
        if !returned.is_vouched {
            return Err(PublishError::Unknown("redis changed before the response".into()));
        }
        self.acknowledge(keys, &returned.publication.topic, id);
        match returned.shortfall {
            Some(text) => Err(PublishError::Unknown(Arc::clone(text))),
            None => Ok(Published { id: Some(id), duplicate }),
        }
    }
}

/// The result of a failure for the publisher.
fn verdict(failure: &Failure, was_sent: bool) -> PublishError {
    PublishError::Refused(match failure {
        Failure::Closed if was_sent => {
            return PublishError::Unknown("the connection was lost before the response".into());
        }
        Failure::TimedOut if was_sent => return PublishError::Unknown("no response in time".into()),
        Failure::Disconnected
        | Failure::Unreachable(_)
        | Failure::NoPrimary(_)
        | Failure::Superseded
        | Failure::Closed
        | Failure::TimedOut => Refusal::Disconnected,
        Failure::Refused { kind, .. } => refusal(*kind),
        Failure::PoolWait => Refusal::Overloaded,
        Failure::TooOld(_) | Failure::WrongMode(_) | Failure::OtherFormat(_) | Failure::Other(_) => Refusal::Denied,
    })
}

/// The publisher's error for an error of Redis.
const fn refusal(kind: RefusalKind) -> Refusal {
    match kind {
        RefusalKind::Loading => Refusal::Loading,
        RefusalKind::ReadOnly | RefusalKind::MasterDown | RefusalKind::Moved | RefusalKind::Ask => Refusal::ReadOnly,
        RefusalKind::Oom => Refusal::OutOfMemory,
        RefusalKind::Misconf => Refusal::Disk,
        RefusalKind::NoReplicas => Refusal::NoReplicas,
        RefusalKind::Busy | RefusalKind::TryAgain | RefusalKind::ClusterDown => Refusal::Busy,
        RefusalKind::Stale => Refusal::Disconnected,
        RefusalKind::NoScript | RefusalKind::Format | RefusalKind::CrossSlot | RefusalKind::WrongType => {
            Refusal::Denied
        }
        RefusalKind::NoPerm | RefusalKind::NoAuth | RefusalKind::WrongPass => Refusal::Denied,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backplane::redis::for_tests;

    fn answered(kind: RefusalKind) -> Failure {
        Failure::Refused { kind, text: kind.code().into() }
    }

    fn publication() -> Publication {
        for_tests::publication("orders", for_tests::rule(100, Duration::ZERO))
    }

    fn returned(publication: &Publication) -> Returned<'_> {
        Returned { publication, number: 1, is_repeat: false, was_sent: true, is_vouched: true, shortfall: None }
    }

    fn keys() -> Keys {
        Keys::new("x:")
    }

    fn claimed(ledger: &Ledger) -> Vec<StreamId> {
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
            let mut ledger = Ledger::default();
            ledger.open(&keys(), &publication.topic);
            let settled = ledger.settle(&keys(), &returned(&publication), &outcome);
            assert!(
                matches!(settled, Settled::Answer(Ok(published)) if published == Published { id: Some(id), duplicate })
            );
            assert_eq!(ledger.is_overtaken(&publication.topic, 0), !duplicate);
            assert_eq!(claimed(&ledger), [id]);
        }
    }

    #[test]
    fn a_response_of_an_earlier_generation_is_not_acknowledged() {
        let (publication, mut ledger) = (publication(), Ledger::default());
        let late = Returned { is_vouched: false, ..returned(&publication) };
        let settled = ledger.settle(&keys(), &late, &PublishOutcome::Stored(StreamId::new(5, 6)));
        assert!(matches!(settled, Settled::Answer(Err(PublishError::Unknown(_)))));
        assert!(claimed(&ledger).is_empty());
    }

    #[test]
    fn a_publication_without_the_required_durability_is_unknown_but_recorded() {
        let (publication, text) = (publication(), Arc::from("not on the disk"));
        let mut ledger = Ledger::default();
        let returned = Returned { shortfall: Some(&text), ..returned(&publication) };
        let settled = ledger.settle(&keys(), &returned, &PublishOutcome::Stored(StreamId::new(5, 6)));
        assert!(matches!(settled, Settled::Answer(Err(PublishError::Unknown(why))) if why == text));
        assert_eq!(claimed(&ledger), [StreamId::new(5, 6)]);
    }

    #[test]
    fn a_publication_is_sent_once_more_if_the_script_was_lost() {
        let (publication, mut ledger) = (publication(), Ledger::default());
        let no_script = PublishOutcome::Failed(answered(RefusalKind::NoScript));
        assert!(matches!(ledger.settle(&keys(), &returned(&publication), &no_script), Settled::SendAgain));
        let again = Returned { is_repeat: true, ..returned(&publication) };
        let settled = ledger.settle(&keys(), &again, &no_script);
        assert!(matches!(settled, Settled::Answer(Err(PublishError::Refused(Refusal::Denied)))));
    }

    #[test]
    fn only_publications_that_may_have_run_are_unknown() {
        for silent in [Failure::TimedOut, Failure::Closed] {
            assert!(silent.in_doubt() && matches!(verdict(&silent, true), PublishError::Unknown(_)));
            assert!(matches!(verdict(&silent, false), PublishError::Refused(Refusal::Disconnected)));
        }
        for kind in RefusalKind::ALL {
            assert!(matches!(verdict(&answered(*kind), true), PublishError::Refused(_)), "{kind:?}");
        }
    }
}
