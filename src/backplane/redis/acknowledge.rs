//! What Redis's answer to a publication means: for its publisher, and for what this replica answers for from then on.
//! Pure: the lane sends, this decides.

use std::sync::Arc;

use tickgate_wire::model::{Publication, StreamId};

use super::ledger::Ledger;
use crate::{
    backplane::{PublishError, Published, Refusal},
    redis_link::{Failure, Keys, RefusalKind},
};

/// What an answer says of one publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PublishOutcome {
    Stored(StreamId),
    /// Published without a stream.
    Sent,
    Duplicate(Option<StreamId>),
    /// The `msg_id` stands for another publication: nothing was stored.
    Reused,
    /// A publication of that later turn came first: nothing was stored.
    Superseded {
        by: u64,
    },
    Failed(Failure),
}

impl PublishOutcome {
    /// An answer that no script of ours gives: whatever ran, its effect is unknown.
    pub(super) const STRANGE: Self = Self::Failed(Failure::Closed);

    /// Reads the script's answer: an id or `-`, with ` duplicate` behind it or not.
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

    /// The id under which the publication is acknowledged.
    pub(super) const fn id(&self) -> Option<StreamId> {
        match self {
            Self::Stored(id) | Self::Duplicate(Some(id)) => Some(*id),
            Self::Sent | Self::Duplicate(None) | Self::Reused | Self::Superseded { .. } | Self::Failed(_) => None,
        }
    }
}

/// A publication that came back from the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Returned<'a> {
    pub(super) publication: &'a Publication,
    /// Place in the order of the hand-over.
    pub(super) number: u64,
    /// It was sent before, and not stored.
    pub(super) is_repeat: bool,
    /// It may have reached the server.
    pub(super) was_sent: bool,
    /// The replica still vouches for what the generation answered that it was sent in.
    pub(super) is_vouched: bool,
    /// What is missing of the durability that its rule asks for.
    pub(super) shortfall: Option<&'a Arc<str>>,
}

/// What is to be done about it.
#[derive(Debug)]
pub(super) enum Settled {
    Answer(Result<Published, PublishError>),
    /// Redis forgot the script, or is in another generation: nothing was stored, and the publication is sent again.
    SendAgain,
}

impl Ledger {
    /// Settles one publication. An id that is acknowledged here must not be lost without a report from now on.
    pub(super) fn settle(&mut self, keys: &Keys, returned: &Returned<'_>, outcome: &PublishOutcome) -> Settled {
        let topic = &returned.publication.topic;
        match outcome {
            PublishOutcome::Stored(id) => {
                self.store(topic, returned.number);
                Settled::Answer(self.accept(keys, returned, *id, false))
            }
            PublishOutcome::Sent => Settled::Answer(Ok(Published { id: None, duplicate: false })),
            // The replica that stored it may be gone, or may never have received the answer.
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

    /// A publication failed: the error for its publisher.
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
            return Err(PublishError::Unknown("redis changed before the answer".into()));
        }
        self.acknowledge(keys, &returned.publication.topic, id);
        match returned.shortfall {
            Some(text) => Err(PublishError::Unknown(Arc::clone(text))),
            None => Ok(Published { id: Some(id), duplicate }),
        }
    }
}

/// What a failure means to the publisher.
fn verdict(failure: &Failure, was_sent: bool) -> PublishError {
    PublishError::Refused(match failure {
        Failure::Closed if was_sent => {
            return PublishError::Unknown("the connection was lost before the answer".into());
        }
        Failure::TimedOut if was_sent => return PublishError::Unknown("no answer in time".into()),
        Failure::Disconnected | Failure::Unreachable(_) | Failure::Closed | Failure::TimedOut => Refusal::Disconnected,
        Failure::Refused { kind, .. } => refusal(*kind),
        Failure::PoolWait => Refusal::Overloaded,
        Failure::TooOld(_) | Failure::OtherFormat(_) | Failure::Other(_) => Refusal::Denied,
    })
}

/// What the publisher is told of an error of Redis.
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
    fn each_answer_has_one_meaning() {
        assert_eq!(PublishOutcome::parse("5-6"), PublishOutcome::Stored(StreamId::new(5, 6)));
        assert_eq!(PublishOutcome::parse("5-6 duplicate"), PublishOutcome::Duplicate(Some(StreamId::new(5, 6))));
        assert_eq!(PublishOutcome::parse("-"), PublishOutcome::Sent);
        assert_eq!(PublishOutcome::parse("- duplicate"), PublishOutcome::Duplicate(None));
        for strange in ["", "hello", "5", " duplicate"] {
            assert_eq!(PublishOutcome::parse(strange), PublishOutcome::STRANGE, "{strange}");
        }
    }

    #[test]
    fn what_is_acknowledged_is_answered_for_whoever_stored_it() {
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
    fn what_an_earlier_generation_answers_is_not_acknowledged() {
        let (publication, mut ledger) = (publication(), Ledger::default());
        let late = Returned { is_vouched: false, ..returned(&publication) };
        let settled = ledger.settle(&keys(), &late, &PublishOutcome::Stored(StreamId::new(5, 6)));
        assert!(matches!(settled, Settled::Answer(Err(PublishError::Unknown(_)))));
        assert!(claimed(&ledger).is_empty());
    }

    #[test]
    fn what_is_stored_without_its_durability_is_unknown_and_answered_for() {
        let (publication, text) = (publication(), Arc::from("not on the disk"));
        let mut ledger = Ledger::default();
        let returned = Returned { shortfall: Some(&text), ..returned(&publication) };
        let settled = ledger.settle(&keys(), &returned, &PublishOutcome::Stored(StreamId::new(5, 6)));
        assert!(matches!(settled, Settled::Answer(Err(PublishError::Unknown(why))) if why == text));
        assert_eq!(claimed(&ledger), [StreamId::new(5, 6)]);
    }

    #[test]
    fn a_forgotten_script_is_a_reason_to_send_once_more() {
        let (publication, mut ledger) = (publication(), Ledger::default());
        let no_script = PublishOutcome::Failed(answered(RefusalKind::NoScript));
        assert!(matches!(ledger.settle(&keys(), &returned(&publication), &no_script), Settled::SendAgain));
        let again = Returned { is_repeat: true, ..returned(&publication) };
        let settled = ledger.settle(&keys(), &again, &no_script);
        assert!(matches!(settled, Settled::Answer(Err(PublishError::Refused(Refusal::Denied)))));
    }

    #[test]
    fn only_what_may_have_run_is_unknown() {
        for silent in [Failure::TimedOut, Failure::Closed] {
            assert!(silent.in_doubt() && matches!(verdict(&silent, true), PublishError::Unknown(_)));
            assert!(matches!(verdict(&silent, false), PublishError::Refused(Refusal::Disconnected)));
        }
        for kind in RefusalKind::ALL {
            assert!(matches!(verdict(&answered(*kind), true), PublishError::Refused(_)), "{kind:?}");
        }
    }
}
