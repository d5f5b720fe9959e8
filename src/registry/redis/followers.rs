//! An index of this replica's sessions by topic, so that the cost of a presence request depends only on the size of its
//! result, and the cost of a change only on the number of changed topics. Knows nothing about users, and only the
//! topics of a record.

use std::{
    collections::{
        HashMap, HashSet,
        hash_map::{Entry, RandomState},
    },
    hash::BuildHasher,
};

use parking_lot::Mutex;
use tickgate_wire::model::{SessionId, Topic};

/// Number of locks, so that connections that change their subscriptions rarely wait for each other.
const PARTS: usize = 16;

/// A hash of a topic's name with a key of this process, so that collisions cannot be provoked.
type TopicHash = u64;

/// Sessions by topic, and topics by session. Takes 16 bytes and a session id per subscription, plus the overhead of the
/// tables.
#[derive(Debug, Default)]
pub(super) struct TopicSessions {
    hasher: RandomState,
    topics: [Mutex<HashMap<TopicHash, SessionSet>>; PARTS],
    /// Locked before a part of `topics`, never after one.
    sessions: [Mutex<HashMap<SessionId, NameByPointer>>; PARTS],
}

/// Most topics have a single subscriber.
#[derive(Debug)]
enum SessionSet {
    One(SessionId),
    Many(HashSet<SessionId>),
}

impl TopicSessions {
    /// Sets the session's topics to exactly these.
    pub(super) fn set(&self, session: SessionId, topics: Vec<Topic>) {
        let new = NameByPointer::new(topics);
        let mut sessions = self.sessions[self.part(&session)].lock();
        let old = sessions.remove(&session).unwrap_or_default();
        for topic in old.without(&new) {
            self.remove(self.hasher.hash_one(topic.as_str()), session);
        }
        for topic in new.without(&old) {
            self.add(self.hasher.hash_one(topic.as_str()), session);
        }
        if !new.0.is_empty() {
            sessions.insert(session, new);
        }
    }

    /// The sessions that subscribe to a topic.
    pub(super) fn of(&self, topic: &str) -> Vec<SessionId> {
        let topic = self.hasher.hash_one(topic);
        match self.topics[part_of(topic)].lock().get(&topic) {
            None => Vec::new(),
            Some(SessionSet::One(session)) => vec![*session],
            Some(SessionSet::Many(sessions)) => sessions.iter().copied().collect(),
        }
    }

    fn part(&self, session: &SessionId) -> usize {
        part_of(self.hasher.hash_one(session))
    }

    fn add(&self, topic: TopicHash, session: SessionId) {
        match self.topics[part_of(topic)].lock().entry(topic) {
            Entry::Vacant(vacant) => {
                vacant.insert(SessionSet::One(session));
            }
            Entry::Occupied(mut occupied) => match occupied.get_mut() {
                SessionSet::One(one) if *one == session => {}
                SessionSet::One(one) => {
                    let both = HashSet::from([*one, session]);
                    occupied.insert(SessionSet::Many(both));
                }
                SessionSet::Many(many) => {
                    many.insert(session);
                }
            },
        }
    }

    fn remove(&self, topic: TopicHash, session: SessionId) {
        let mut topics = self.topics[part_of(topic)].lock();
        let gone = match topics.get_mut(&topic) {
            None => return,
            Some(SessionSet::One(one)) => *one == session,
            Some(SessionSet::Many(many)) => {
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

/// Topics ordered by the address of their names: equal addresses are equal names, which need not be compared.
#[derive(Debug, Default)]
struct NameByPointer(Box<[Topic]>);

impl NameByPointer {
    fn new(mut topics: Vec<Topic>) -> Self {
        topics.sort_unstable_by_key(place);
        topics.dedup_by_key(|topic| place(topic));
        Self(topics.into())
    }

    /// The topics of one list that are not in the other; compares names if the addresses differ.
    fn without<'a>(&'a self, others: &'a Self) -> impl Iterator<Item = &'a Topic> {
        let elsewhere = |topic: &&Topic| others.0.binary_search_by_key(&place(topic), place).is_err();
        self.0.iter().filter(elsewhere).filter(|topic| !others.0.contains(topic))
    }
}

fn place(topic: &Topic) -> usize {
    topic.as_str().as_ptr().addr()
}

fn part_of(hash: u64) -> usize {
    usize::try_from(hash % PARTS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_has_its_current_subscribers() {
        let (followers, [alice, bob, carol]) = (TopicSessions::default(), [(); 3].map(|()| SessionId::random()));
        let of = |topic: &str| followers.of(topic).into_iter().collect::<HashSet<_>>();
        let topics = |names: &[&str]| names.iter().map(|name| Topic::from_wire(name)).collect::<Vec<_>>();
        followers.set(alice, topics(&["a", "b", "a"]));
        followers.set(bob, topics(&["b"]));
        followers.set(carol, topics(&["b", "c"]));
        assert_eq!((of("a"), of("b")), (HashSet::from([alice]), HashSet::from([alice, bob, carol])));
        followers.set(alice, topics(&["c"]));
        assert_eq!(
            (of("a"), of("b"), of("c")),
            ([].into(), HashSet::from([bob, carol]), HashSet::from([alice, carol]))
        );
        followers.set(carol, topics(&["c", "b"]));
        assert_eq!((of("b"), of("c")), (HashSet::from([bob, carol]), HashSet::from([alice, carol])), "another copy");
        for session in [alice, bob, carol] {
            followers.set(session, Vec::new());
        }
        assert!(followers.topics.iter().all(|part| part.lock().is_empty()));
        assert!(followers.sessions.iter().all(|part| part.lock().is_empty()));
    }
}
