//! Presence over Redis: a question to all replicas over the control channels; each counts its own subscribers, and the
//! asking replica adds them up.
//!
//! Callers wait for the next question, which covers all topics requested by then: many callers with many topics cost no
//! more questions than one. A replica asks at most once a second for the same topic.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use tickgate_wire::model::{ReplicaId, Topic};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Redis, RedisRegistryShared,
    batch::Op,
    commands,
    message::{ChannelMessage, PresenceAnswer, PresenceQuestion},
};
use crate::{
    redis_link::RedisFailure,
    registry::{RegistryUnavailable, TopicPresence, presence::TopicAudience},
    tasks::Stop,
};

/// How long a result is shared.
const CACHE_TTL: Duration = Duration::from_secs(1);
/// Maximum number of cached topics.
const CACHE_MAX: usize = 1_024;
/// Minimum time between two questions of one replica.
const ASK_INTERVAL: Duration = Duration::from_millis(50);
/// Time limit for the answers of the replicas, including the wait for a question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of topics per question.
const TOPICS_MAX: usize = 64;
/// Maximum number of topics waiting for a question; beyond it clients are asked to retry.
const WAITING_MAX: usize = 4_096;
/// Maximum number of queued questions of other replicas; further ones get no answer, and are retried later.
pub(super) const ASKED_MAX: usize = 64;
/// Maximum number of queued answers to one question: more than the number of replicas in practice. [`TopicAudience`] bounds
/// the size of each.
const ANSWERS_MAX: usize = 1_024;

type Cached = Arc<tokio::sync::Mutex<Option<(Instant, TopicPresence)>>>;

/// Pending questions, and recent results.
#[derive(Debug)]
pub(super) struct Questions {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, mpsc::Sender<Vec<TopicAudience>>>>,
    /// The call that holds a topic's lock asks; the others wait for it and share its result.
    recent: Mutex<HashMap<Topic, Cached>>,
    to_ask: mpsc::Sender<RequestedPresence>,
}

/// A topic that was requested.
#[derive(Debug)]
pub(super) struct RequestedPresence {
    topic: Topic,
    answer: oneshot::Sender<TopicPresence>,
}

impl Questions {
    /// The receiver is for [`ask_all`].
    pub(super) fn new() -> (Self, mpsc::Receiver<RequestedPresence>) {
        let (to_ask, wanted) = mpsc::channel(WAITING_MAX);
        (Self { next: AtomicU64::new(0), waiting: Mutex::default(), recent: Mutex::default(), to_ask }, wanted)
    }

    /// Handles one replica's answer.
    pub(super) fn answer(&self, reply: PresenceAnswer) {
        if let Some(sender) = self.waiting.lock().get(&reply.number) {
            // Full only if no longer read.
            let _ = sender.try_send(reply.audiences);
        }
    }

    /// Where the answer about a topic is kept, as long as there is room for it.
    fn cached(&self, topic: &Topic) -> Cached {
        let mut recent = self.recent.lock();
        if let Some(cached) = recent.get(topic) {
            return Arc::clone(cached);
        }
        if recent.len() >= CACHE_MAX {
            let now = Instant::now();
            recent.retain(|_, cached| {
                cached.try_lock().map_or(true, |kept| kept.is_some_and(|(at, _)| now - at < CACHE_TTL))
            });
        }
        if recent.len() >= CACHE_MAX {
            // Nobody else takes this answer.
            return Cached::default();
        }
        Arc::clone(recent.entry(topic.clone()).or_default())
    }

    /// The result of all replicas for a topic.
    async fn ask(&self, topic: &Topic) -> Result<TopicPresence, RedisFailure> {
        let (answer, answered) = oneshot::channel();
        self.to_ask.try_send(RequestedPresence { topic: topic.clone(), answer }).map_err(|_| RedisFailure::PoolWait)?;
        answered.await.map_err(|_| RedisFailure::Closed)
    }
}

/// Answers questions of all replicas, including this one, until the replica stops.
pub(super) async fn answer_all(
    inner: Arc<RedisRegistryShared>,
    mut asked: mpsc::Receiver<PresenceQuestion>,
    mut stop: Stop,
) {
    loop {
        let ask = tokio::select! {
            ask = asked.recv() => ask,
            () = stop.wait() => return,
        };
        let Some(ask) = ask else { return };
        let Ok(replica) = ReplicaId::new(&ask.replica) else { continue };
        let audience = |topic: &String| inner.leases.audience(&inner.followers.of(topic));
        let audiences = ask.topics.iter().take(TOPICS_MAX).map(audience).collect();
        let answer = ChannelMessage::Answer(PresenceAnswer { number: ask.number, audiences }).encode();
        inner.push(inner.control_shard(), Op::Tell(replica, answer));
    }
}

/// Removes a question when its answers are no longer awaited.
struct OpenQuestion<'a> {
    questions: &'a Questions,
    number: u64,
}

impl Drop for OpenQuestion<'_> {
    fn drop(&mut self) {
        self.questions.waiting.lock().remove(&self.number);
    }
}

impl Redis {
    /// At most a second old.
    pub(in crate::registry) async fn presence(&self, topic: &Topic) -> Result<TopicPresence, RegistryUnavailable> {
        let inner = &*self.0;
        let cached = inner.questions.cached(topic);
        let mut kept = cached.lock().await;
        if let Some((at, presence)) = *kept
            && at.elapsed() < CACHE_TTL
        {
            return Ok(presence);
        }
        let answers = tokio::time::timeout(ANSWER_TIMEOUT, inner.questions.ask(topic));
        let presence = answers.await.map_err(|_| RedisFailure::TimedOut)??;
        *kept = Some((Instant::now(), presence));
        Ok(presence)
    }
}

/// Asks about requested topics at the interval, until the replica stops.
pub(super) async fn ask_all(
    inner: Arc<RedisRegistryShared>,
    mut wanted: mpsc::Receiver<RequestedPresence>,
    mut stop: Stop,
) {
    let (mut under_way, mut turn) = (FuturesUnordered::new(), Instant::now());
    let mut batch = Vec::new();
    loop {
        let next = async {
            tokio::time::sleep_until(turn).await;
            wanted.recv_many(&mut batch, TOPICS_MAX).await
        };
        tokio::select! {
            count = next => if count == 0 { return },
            Some(()) = under_way.next() => continue,
            () = stop.wait() => return,
        }
        turn = Instant::now() + ASK_INTERVAL;
        batch.retain(|wanted| !wanted.answer.is_closed());
        if !batch.is_empty() {
            under_way.push(ask(&inner, std::mem::take(&mut batch)));
        }
    }
}

/// Asks all replicas about these topics. If answers are missing, the callers get an error.
async fn ask(inner: &RedisRegistryShared, batch: Vec<RequestedPresence>) {
    let topics = batch.iter().map(|wanted| wanted.topic.to_string()).collect();
    match tokio::time::timeout(ANSWER_TIMEOUT, answers(inner, topics, batch.len())).await {
        Ok(Ok(all)) => {
            for (wanted, audience) in batch.into_iter().zip(all) {
                // The caller may have stopped waiting.
                let _ = wanted.answer.send(audience.presence());
            }
        }
        Ok(Err(error)) => tracing::debug!(%error, "presence is unavailable"),
        Err(_) => tracing::debug!("not all replicas answered about presence"),
    }
}

async fn answers(
    inner: &RedisRegistryShared,
    topics: Vec<String>,
    count: usize,
) -> Result<Vec<TopicAudience>, RedisFailure> {
    let number = inner.questions.next.fetch_add(1, Ordering::Relaxed);
    let (sender, mut answers) = mpsc::channel(ANSWERS_MAX);
    inner.questions.waiting.lock().insert(number, sender);
    let _open = OpenQuestion { questions: &inner.questions, number };
    let ask = PresenceQuestion { number, replica: inner.local.replica.to_string(), topics };
    let mut publish = redis::cmd("PUBLISH");
    publish.arg(inner.keys().control_all()).arg(ChannelMessage::Ask(ask).encode());
    // The number of subscribers when the question was published, including this replica.
    let listeners: usize = commands::ask(inner.control_link(), &publish).await?;
    let mut all = vec![TopicAudience::default(); count];
    for _ in 0..listeners {
        let one = answers.recv().await.ok_or(RedisFailure::Closed)?;
        all.iter_mut().zip(&one).for_each(|(all, one)| all.merge(one));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_answers_are_kept_than_there_may_be() {
        let (questions, _wanted) = Questions::new();
        let topic = |number: usize| Topic::public(&format!("t:{number}")).unwrap();
        let ask = |number: usize| questions.cached(&topic(number)).try_lock_owned().unwrap();
        // Each is being asked about: none can go.
        let mut asked: Vec<_> = (0..CACHE_MAX).map(ask).collect();
        let beyond = [ask(CACHE_MAX), ask(CACHE_MAX)];
        assert_eq!(questions.recent.lock().len(), CACHE_MAX);
        assert!(questions.cached(&topic(0)).try_lock().is_err(), "who asks the same waits for the same answer");
        drop(beyond);
        *asked[0] = Some((Instant::now(), TopicPresence::default()));
        drop(asked);
        drop(ask(CACHE_MAX));
        assert_eq!(questions.recent.lock().len(), 2, "those without an answer make room");
    }
}
