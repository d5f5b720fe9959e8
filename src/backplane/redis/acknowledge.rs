//! What Redis's answer to a publication means: for its publisher, and for what this replica answers for from then on.
//! Pure: the lane sends, this decides.

use std::{sync::Arc, time::Instant};

use tickgate_wire::model::{Publication, StreamId};

use super::{
    claims::Claim,
    ledger::{Account, Ledger},
};
use crate::{
    backplane::{PublishError, Published, Refusal},
    redis_link::{Failure, RefusalKind},
};

/// What an answer says of one publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PublishOutcome {
    Stored(StreamId),
    /// Published without a stream.
    Sent,
    Duplicate(Option<StreamId>),
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
            Self::Sent | Self::Duplicate(None) | Self::Failed(_) => None,
        }
    }
}

/// A publication that came back from the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Returned<'a> {
    pub(super) publication: &'a Publication,
    /// Place in the order of the hand-over.
    pub(super) number: u64,
    /// It was sent again after Redis had forgotten the script.
    pub(super) is_repeat: bool,
    /// It may have reached the server.
    pub(super) was_sent: bool,
    /// Generation of the server that answered.
    pub(super) generation: u64,
    /// What is missing of the durability that its rule asks for.
    pub(super) shortfall: Option<&'a Arc<str>>,
}

/// What is to be done about it.
#[derive(Debug)]
pub(super) enum Settled {
    Answer(Result<Published, PublishError>),
    /// Redis forgot the script: load it and send the publication again.
    SendAgain,
}

impl Ledger {
    /// Settles one publication. An id that is acknowledged here must not be lost without a report from now on.
    pub(super) fn settle(&mut self, returned: &Returned<'_>, outcome: &PublishOutcome, now: Instant) -> Settled {
        let accepted = |id, duplicate| {
            let unknown = returned.shortfall.map(|text| PublishError::Unknown(Arc::clone(text)));
            Settled::Answer(unknown.map_or(Ok(Published { id, duplicate }), Err))
        };
        match outcome {
            PublishOutcome::Stored(id) => {
                self.answer_for(returned, *id, |account| account.store(*id, returned.number, now));
                accepted(Some(*id), false)
            }
            PublishOutcome::Sent => Settled::Answer(Ok(Published { id: None, duplicate: false })),
            PublishOutcome::Duplicate(id) => {
                if let Some(id) = *id {
                    // The replica that stored it may be gone, or may never have received the answer.
                    self.answer_for(returned, id, |account| account.acknowledge(id, now));
                }
                accepted(*id, true)
            }
            PublishOutcome::Failed(failure) if failure.is_no_script() && !returned.is_repeat => Settled::SendAgain,
            PublishOutcome::Failed(failure) => Settled::Answer(Err(self.fail(returned, failure))),
        }
    }

    /// A publication failed: the error for its publisher.
    pub(super) fn fail(&mut self, returned: &Returned<'_>, failure: &Failure) -> PublishError {
        if let Some(account) = self.get(&returned.publication.topic) {
            account.fail();
        }
        verdict(failure, returned.was_sent)
    }

    fn answer_for(&mut self, returned: &Returned<'_>, id: StreamId, note: impl FnOnce(&mut Account)) {
        let Publication { topic, rule, .. } = returned.publication;
        if returned.generation < self.generation() {
            // Acknowledged by a server that has been replaced since.
            let (topic, rule) = (topic.clone(), Arc::clone(rule));
            self.claims.add([Claim { topic, id, marker: None, proven: id.epoch, rule }]);
        } else if let Some(account) = self.get(topic) {
            note(account);
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
        Failure::TooOld(_) | Failure::Other(_) => Refusal::Denied,
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
        RefusalKind::NoScript | RefusalKind::CrossSlot | RefusalKind::WrongType => Refusal::Denied,
        RefusalKind::NoPerm | RefusalKind::NoAuth | RefusalKind::WrongPass => Refusal::Denied,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{backplane::redis::for_tests, redis_link::Keys};

    fn answered(kind: RefusalKind) -> Failure {
        Failure::Refused { kind, text: kind.code().into() }
    }

    fn publication() -> Publication {
        for_tests::publication("orders", for_tests::rule(100, Duration::ZERO))
    }

    fn returned(publication: &Publication) -> Returned<'_> {
        Returned { publication, number: 1, is_repeat: false, was_sent: true, generation: 5, shortfall: None }
    }

    /// A ledger on the server of generation 5, with an account of the publication's topic.
    fn ledger(publication: &Publication, now: Instant) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.adopt(5, now);
        ledger.open(&Keys::new("x:"), &publication.topic, &publication.rule);
        ledger
    }

    fn claimed(ledger: &mut Ledger) -> Vec<StreamId> {
        ledger.claims.take().iter().map(|claim| claim.id).collect()
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
        let (publication, now) = (publication(), Instant::now());
        let id = StreamId::new(5, 6);
        for (outcome, duplicate) in [(PublishOutcome::Stored(id), false), (PublishOutcome::Duplicate(Some(id)), true)] {
            let mut ledger = ledger(&publication, now);
            let settled = ledger.settle(&returned(&publication), &outcome, now);
            assert!(
                matches!(settled, Settled::Answer(Ok(published)) if published == Published { id: Some(id), duplicate })
            );
            assert_eq!(ledger.is_overtaken(&publication.topic, 0), !duplicate);
            ledger.adopt(6, now);
            assert_eq!(claimed(&mut ledger), [id]);
        }
    }

    #[test]
    fn an_answer_of_the_server_before_is_verified_on_the_one_that_replaced_it() {
        let (publication, now) = (publication(), Instant::now());
        let mut ledger = ledger(&publication, now);
        ledger.adopt(6, now);
        assert!(claimed(&mut ledger).is_empty());
        ledger.settle(&returned(&publication), &PublishOutcome::Stored(StreamId::new(5, 6)), now);
        assert_eq!(claimed(&mut ledger), [StreamId::new(5, 6)]);
    }

    #[test]
    fn what_is_stored_without_its_durability_is_unknown_and_answered_for() {
        let (publication, now, text) = (publication(), Instant::now(), Arc::from("not on the disk"));
        let mut ledger = ledger(&publication, now);
        let returned = Returned { shortfall: Some(&text), ..returned(&publication) };
        let settled = ledger.settle(&returned, &PublishOutcome::Stored(StreamId::new(5, 6)), now);
        assert!(matches!(settled, Settled::Answer(Err(PublishError::Unknown(why))) if why == text));
        ledger.adopt(6, now);
        assert_eq!(claimed(&mut ledger), [StreamId::new(5, 6)]);
    }

    #[test]
    fn a_forgotten_script_is_a_reason_to_send_once_more() {
        let (publication, now) = (publication(), Instant::now());
        let mut ledger = ledger(&publication, now);
        let no_script = PublishOutcome::Failed(answered(RefusalKind::NoScript));
        assert!(matches!(ledger.settle(&returned(&publication), &no_script, now), Settled::SendAgain));
        let again = Returned { is_repeat: true, ..returned(&publication) };
        let settled = ledger.settle(&again, &no_script, now);
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
