//! Which sessions of this replica follow a topic: an index, so that a question for presence costs what its answer holds, and
//! not a look at every session. Never knows users or what a record says beyond its topics.

use std::{
    collections::{
        HashMap, HashSet,
        hash_map::{Entry, RandomState},
    },
    hash::BuildHasher,
};

use parking_lot::Mutex;
use tickgate_wire::model::SessionId;

/// Locks, so that connections that change their subscriptions seldom wait for each other.
const PARTS: usize = 16;

/// A topic's name, shortened to what nobody can make collide: the key of the hash is this process's own.
type TopicHash = u64;

/// Sessions by topic, and topics by session. 8 bytes and a session's id for each subscription, and what the tables add.
#[derive(Debug, Default)]
pub(super) struct Followers {
    hasher: RandomState,
    topics: [Mutex<HashMap<TopicHash, Sessions>>; PARTS],
    /// Locked before a part of `topics`, never after one.
    sessions: [Mutex<HashMap<SessionId, Box<[TopicHash]>>>; PARTS],
}

/// Most topics of users have one follower.
#[derive(Debug)]
enum Sessions {
    One(SessionId),
    Many(HashSet<SessionId>),
}

impl Followers {
    /// The session follows these topics, and no others.
    pub(super) fn set<'a>(&self, session: SessionId, topics: impl Iterator<Item = &'a str>) {
        let mut new: Vec<_> = topics.map(|topic| self.hasher.hash_one(topic)).collect();
        new.sort_unstable();
        new.dedup();
        let mut sessions = self.sessions[self.part(&session)].lock();
        let old = match new.is_empty() {
            true => sessions.remove(&session),
            false => sessions.insert(session, new.clone().into()),
        };
        let old = old.unwrap_or_default();
        for topic in old.iter().filter(|topic| new.binary_search(topic).is_err()) {
            self.remove(*topic, session);
        }
        for topic in new.iter().filter(|topic| old.binary_search(topic).is_err()) {
            self.add(*topic, session);
        }
    }

    /// The sessions that follow a topic.
    pub(super) fn of(&self, topic: &str) -> Vec<SessionId> {
        let topic = self.hasher.hash_one(topic);
        match self.topics[part_of(topic)].lock().get(&topic) {
            None => Vec::new(),
            Some(Sessions::One(session)) => vec![*session],
            Some(Sessions::Many(sessions)) => sessions.iter().copied().collect(),
        }
    }

    fn part(&self, session: &SessionId) -> usize {
        part_of(self.hasher.hash_one(session))
    }

    fn add(&self, topic: TopicHash, session: SessionId) {
        match self.topics[part_of(topic)].lock().entry(topic) {
            Entry::Vacant(vacant) => {
                vacant.insert(Sessions::One(session));
            }
            Entry::Occupied(mut occupied) => match occupied.get_mut() {
                Sessions::One(one) => {
                    let both = HashSet::from([*one, session]);
                    occupied.insert(Sessions::Many(both));
                }
                Sessions::Many(many) => {
                    many.insert(session);
                }
            },
        }
    }

    fn remove(&self, topic: TopicHash, session: SessionId) {
        let mut topics = self.topics[part_of(topic)].lock();
        let gone = match topics.get_mut(&topic) {
            None => return,
            Some(Sessions::One(one)) => *one == session,
            Some(Sessions::Many(many)) => {
                many.remove(&session);
                if many.len() * 4 < many.capacity() {
                    many.shrink_to_fit();
                }
                many.is_empty()
            }
        };
        if gone {
            topics.remove(&topic);
            if topics.len() * 4 < topics.capacity() {
                topics.shrink_to_fit();
            }
        }
    }
}

fn part_of(hash: u64) -> usize {
    usize::try_from(hash % PARTS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_has_those_that_follow_it_now() {
        let (followers, [alice, bob, carol]) = (Followers::default(), [(); 3].map(|()| SessionId::random()));
        let of = |topic: &str| followers.of(topic).into_iter().collect::<HashSet<_>>();
        followers.set(alice, ["a", "b", "a"].into_iter());
        followers.set(bob, ["b"].into_iter());
        followers.set(carol, ["b", "c"].into_iter());
        assert_eq!((of("a"), of("b")), (HashSet::from([alice]), HashSet::from([alice, bob, carol])));
        followers.set(alice, ["c"].into_iter());
        assert_eq!(
            (of("a"), of("b"), of("c")),
            ([].into(), HashSet::from([bob, carol]), HashSet::from([alice, carol]))
        );
        for session in [alice, bob, carol] {
            followers.set(session, [].into_iter());
        }
        assert!(followers.topics.iter().all(|part| part.lock().is_empty()));
        assert!(followers.sessions.iter().all(|part| part.lock().is_empty()));
    }
}
