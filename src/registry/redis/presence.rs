//! Presence over Redis: a question to all replicas over the control channels; each counts its own followers, and the one
//! that asked adds up.
//!
//! Counting looks at every session, so it has a task of its own, and a replica asks only so often. Never asks twice within
//! a second for the same topic, however many clients do.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tickgate_wire::model::{ReplicaId, Topic};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Inner, Redis,
    batch::Op,
    commands,
    message::{ChannelMessage, PresenceAnswer, PresenceQuestion},
};
use crate::{
    redis_link::Failure,
    registry::{Presence, Unavailable, presence::Audience},
    tasks::Stop,
};

/// How long an answer serves others who ask.
const CACHE_TTL: Duration = Duration::from_secs(1);
/// Topics whose answers are kept at once.
const CACHE_MAX: usize = 1_024;
/// Time between two questions of one replica.
const ASK_INTERVAL: Duration = Duration::from_millis(50);
/// How long the replicas may take to answer, the wait for a question's turn included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Questions of others that wait to be answered; beyond that they get no answer, and try again later.
pub(super) const ASKED_MAX: usize = 64;
/// Answers that may wait for one question: more replicas than anybody runs. Each is bounded by [`Audience`].
const ANSWERS_MAX: usize = 1_024;

type Cached = Arc<tokio::sync::Mutex<Option<(Instant, Presence)>>>;

/// Questions under way, and recent answers.
#[derive(Debug, Default)]
pub(super) struct Questions {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, mpsc::Sender<Audience>>>,
    /// The call that holds a topic's lock asks; the others wait for it and take its answer.
    recent: Mutex<HashMap<Topic, Cached>>,
    /// When the next question may be asked.
    turn: tokio::sync::Mutex<Option<Instant>>,
}

impl Questions {
    /// Takes one replica's answer.
    pub(super) fn answer(&self, reply: PresenceAnswer) {
        if let Some(sender) = self.waiting.lock().get(&reply.number) {
            // Full only when nobody reads any more.
            let _ = sender.try_send(reply.audience);
        }
    }

    fn cached(&self, topic: &Topic) -> Cached {
        let mut recent = self.recent.lock();
        if recent.len() >= CACHE_MAX {
            let now = Instant::now();
            recent.retain(|_, cached| {
                cached.try_lock().map_or(true, |kept| kept.is_some_and(|(at, _)| now - at < CACHE_TTL))
            });
        }
        Arc::clone(recent.entry(topic.clone()).or_default())
    }

    /// Waits for the turn of a question.
    async fn take_turn(&self) {
        let mut turn = self.turn.lock().await;
        if let Some(at) = *turn {
            tokio::time::sleep_until(at).await;
        }
        *turn = Some(Instant::now() + ASK_INTERVAL);
    }
}

/// Answers what other replicas ask, and this one, until the replica stops.
pub(super) async fn answer_all(inner: Arc<Inner>, mut asked: mpsc::Receiver<PresenceQuestion>, mut stop: Stop) {
    loop {
        let ask = tokio::select! {
            ask = asked.recv() => ask,
            () = stop.wait() => return,
        };
        let Some(ask) = ask else { return };
        let Ok(replica) = ReplicaId::new(&ask.replica) else { continue };
        let audience = inner.leases.audience(&Topic::from_wire(&ask.topic));
        let answer = ChannelMessage::Answer(PresenceAnswer { number: ask.number, audience }).encode();
        inner.push(inner.control_shard(), Op::Tell(replica, answer));
    }
}

/// A question that is forgotten when nobody waits for its answers any more.
struct Open<'a> {
    questions: &'a Questions,
    number: u64,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.questions.waiting.lock().remove(&self.number);
    }
}

impl Redis {
    /// At most a second old.
    pub(in crate::registry) async fn presence(&self, topic: &Topic) -> Result<Presence, Unavailable> {
        let inner = &*self.0;
        let cached = inner.questions.cached(topic);
        let mut kept = cached.lock().await;
        if let Some((at, presence)) = *kept
            && at.elapsed() < CACHE_TTL
        {
            return Ok(presence);
        }
        let answers = tokio::time::timeout(ANSWER_TIMEOUT, ask_all(inner, topic));
        let presence = answers.await.map_err(|_| Failure::TimedOut)??;
        *kept = Some((Instant::now(), presence));
        Ok(presence)
    }
}

async fn ask_all(inner: &Inner, topic: &Topic) -> Result<Presence, Failure> {
    inner.questions.take_turn().await;
    let number = inner.questions.next.fetch_add(1, Ordering::Relaxed);
    let (sender, mut answers) = mpsc::channel(ANSWERS_MAX);
    inner.questions.waiting.lock().insert(number, sender);
    let _open = Open { questions: &inner.questions, number };
    let ask = PresenceQuestion { number, replica: inner.local.replica.to_string(), topic: topic.to_string() };
    let mut publish = redis::cmd("PUBLISH");
    publish.arg(inner.keys().control_all()).arg(ChannelMessage::Ask(ask).encode());
    // As many as listened when the question was asked; this replica is one of them.
    let listeners: usize = commands::ask(inner.control_link(), &publish).await?;
    let mut all = Audience::default();
    for _ in 0..listeners {
        match answers.recv().await {
            Some(audience) => all.merge(&audience),
            None => return Err(Failure::Closed),
        }
    }
    Ok(all.presence())
}
