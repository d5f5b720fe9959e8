//! Which server is the primary, judged from the sentinels' answers. Pure: `sentinels` asks, this module decides.
//!
//! A failover gives the primary a greater *config epoch*, for which a majority of the sentinels voted. So the answer
//! with the greatest epoch is right even if only one sentinel gives it: the others have not yet learned of the
//! failover. Waiting for a majority of answers would keep publishing to a server whose writes are discarded for another
//! second. This holds only among sentinels that monitor the same servers, so the answer counts only if that sentinel
//! knows the servers that the others name.

use std::fmt;

use crate::config::ServerAddress;

/// The response of one sentinel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SentinelAnswer {
    pub(super) primary: ServerAddress,
    pub(super) epoch: u64,
    /// All servers that it knows under this name.
    pub(super) known: Vec<ServerAddress>,
}

/// Why the answers name no primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PrimaryDoubt {
    /// None answered.
    Silence,
    /// Those that answer missed a failover that this replica has seen.
    Stale { epoch: u64, seen: u64 },
    /// They name different servers and do not all monitor the same ones.
    Disagreement(ServerAddress, ServerAddress),
}

impl fmt::Display for PrimaryDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silence => f.write_str("no sentinel answers"),
            Self::Stale { epoch, seen } => write!(
                f,
                "the sentinels that answer are at config epoch {epoch} and missed the failover to epoch {seen}"
            ),
            Self::Disagreement(one, other) => {
                write!(f, "the sentinels disagree: {one} and {other} are named, which are not of one deployment")
            }
        }
    }
}

/// The answer to follow. `configured`: the number of sentinels in the configuration; `seen`: the greatest epoch that
/// this replica followed before.
pub(super) fn decide(
    answers: &[SentinelAnswer],
    configured: usize,
    seen: u64,
) -> Result<&SentinelAnswer, PrimaryDoubt> {
    let votes = |primary: &ServerAddress| answers.iter().filter(|answer| answer.primary == *primary).count();
    let newest =
        answers.iter().max_by_key(|answer| (answer.epoch, votes(&answer.primary))).ok_or(PrimaryDoubt::Silence)?;
    if newest.epoch < seen {
        // Sentinels that were set up again count from zero, all of them.
        let is_unanimous = votes(&newest.primary) == configured;
        return if is_unanimous { Ok(newest) } else { Err(PrimaryDoubt::Stale { epoch: newest.epoch, seen }) };
    }
    let Some(stranger) = answers.iter().find(|other| !succeeds(answers, newest, other)) else { return Ok(newest) };
    let most = answers.iter().max_by_key(|answer| votes(&answer.primary)).unwrap_or(newest);
    if votes(&most.primary) > configured / 2 && most.epoch >= seen {
        return Ok(most);
    }
    Err(PrimaryDoubt::Disagreement(newest.primary.clone(), stranger.primary.clone()))
}

/// Whether `newest` names the same primary as `other`, or one that took over from it.
fn succeeds(answers: &[SentinelAnswer], newest: &SentinelAnswer, other: &SentinelAnswer) -> bool {
    let knows = |answer: &SentinelAnswer| answer.primary == newest.primary && answer.known.contains(&other.primary);
    other.primary == newest.primary || (other.epoch < newest.epoch && answers.iter().any(knows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> ServerAddress {
        ServerAddress { host: "10.0.0.1".into(), port }
    }

    /// An answer of a sentinel that knows the servers 1, 2 and 3.
    fn says(port: u16, epoch: u64) -> SentinelAnswer {
        SentinelAnswer { primary: at(port), epoch, known: [1, 2, 3].map(at).into() }
    }

    /// One of another deployment.
    fn stranger(port: u16, epoch: u64) -> SentinelAnswer {
        SentinelAnswer { primary: at(port), epoch, known: vec![at(port)] }
    }

    fn primary(answers: &[SentinelAnswer], seen: u64) -> Result<u16, PrimaryDoubt> {
        decide(answers, 3, seen).map(|answer| answer.primary.port)
    }

    #[test]
    fn one_sentinel_that_knows_of_a_failover_is_enough() {
        assert_eq!(primary(&[says(1, 4), says(2, 5), says(1, 4)], 4), Ok(2));
        assert_eq!(primary(&[says(2, 5)], 4), Ok(2));
        assert_eq!(primary(&[says(1, 4), says(1, 4), says(1, 4)], 4), Ok(1));
        assert_eq!(primary(&[], 0), Err(PrimaryDoubt::Silence));
    }

    #[test]
    fn sentinels_that_missed_a_failover_are_not_followed_back() {
        let stale = Err(PrimaryDoubt::Stale { epoch: 4, seen: 5 });
        assert_eq!(primary(&[says(1, 4)], 5), stale);
        assert_eq!(primary(&[says(1, 4), says(1, 4)], 5), stale);
        assert_eq!(primary(&[says(1, 4), says(2, 5)], 5), Ok(2));
        assert_eq!(primary(&[says(1, 0), says(1, 0), says(1, 0)], 5), Ok(1), "set up again");
    }

    #[test]
    fn a_sentinel_of_another_deployment_moves_nobody() {
        assert_eq!(primary(&[says(1, 4), says(1, 4), stranger(9, 7)], 4), Ok(1));
        let doubt = Err(PrimaryDoubt::Disagreement(at(9), at(1)));
        assert_eq!(primary(&[says(1, 4), stranger(9, 7)], 4), doubt);
        // Neither can be newer than the other.
        assert!(matches!(primary(&[says(1, 0), says(2, 0)], 0), Err(PrimaryDoubt::Disagreement(..))));
        assert_eq!(primary(&[says(1, 0), says(2, 0), says(2, 0)], 0), Ok(2));
    }

    #[test]
    fn a_stranger_does_not_hide_a_failover_for_long() {
        let during = [says(1, 4), says(2, 5), stranger(9, 7)];
        assert!(matches!(primary(&during, 4), Err(PrimaryDoubt::Disagreement(..))));
        assert_eq!(primary(&[says(2, 5), says(2, 5), stranger(9, 7)], 4), Ok(2));
    }
}
