//! Inquiries over Redis: a question to all replicas over the control channels, and the answers that arrive in time. An
//! inquiry about one connection is first tried locally, and completed if the connection is here.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tickgate_wire::model::ReplicaId;
use tokio::{sync::mpsc, time::Instant};

use super::{
    Redis, RedisRegistryShared,
    batch::Op,
    commands,
    message::{ChannelMessage, InquiryAnswer, InquiryQuestion},
};
use crate::{
    registry::{Inquiry, InquiryAnswers, RegistryUnavailable, ReplicaAnswer},
    tasks::Stop,
};

/// Time limit for the answers of the replicas.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of queued inquiries of other replicas; further ones get no answer.
pub(super) const ASKED_MAX: usize = 64;
/// Maximum number of queued answers to one inquiry: more than the number of replicas in practice. The answering replica
/// bounds the size of each.
const ANSWERS_MAX: usize = 1_024;

/// Pending inquiries.
#[derive(Debug, Default)]
pub(super) struct Inquiries {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, mpsc::Sender<ReplicaAnswer>>>,
}

impl Inquiries {
    /// Handles one replica's answer.
    pub(super) fn answer(&self, reply: InquiryAnswer) {
        if let Some(sender) = self.waiting.lock().get(&reply.number) {
            // Full only if no longer read.
            let _ = sender.try_send(reply.answer);
        }
    }
}

/// Removes an inquiry when its answers are no longer awaited.
struct OpenInquiry<'a> {
    inquiries: &'a Inquiries,
    number: u64,
}

impl Drop for OpenInquiry<'_> {
    fn drop(&mut self) {
        self.inquiries.waiting.lock().remove(&self.number);
    }
}

/// Answers inquiries of all replicas, including this one, until the replica stops.
pub(super) async fn answer_all(
    inner: Arc<RedisRegistryShared>,
    mut asked: mpsc::Receiver<InquiryQuestion>,
    mut stop: Stop,
) {
    loop {
        let question = tokio::select! {
            question = asked.recv() => question,
            () = stop.wait() => return,
        };
        let Some(InquiryQuestion { number, replica, inquiry }) = question else { return };
        let Ok(replica) = ReplicaId::new(&replica) else { continue };
        let answer = inner.answer_inquiry(&inquiry);
        let message = ChannelMessage::Answered(InquiryAnswer { number, answer }).encode();
        inner.push(inner.control_shard(), Op::Tell(replica, message));
    }
}

impl Redis {
    pub(in crate::registry) async fn inquire(&self, inquiry: &Inquiry) -> Result<InquiryAnswers, RegistryUnavailable> {
        let inner = &*self.0;
        if inquiry.is_about_one() {
            let own = inner.answer_inquiry(inquiry);
            if inquiry.is_settled_by(&own) {
                return Ok(InquiryAnswers::of(own));
            }
        }
        let answers = inner.ask_replicas(inquiry).await;
        if answers.is_err() && matches!(inquiry, Inquiry::Close { .. }) {
            // Local connections can be closed without other replicas.
            inner.answer_inquiry(inquiry);
        }
        answers
    }
}

impl RedisRegistryShared {
    fn answer_inquiry(&self, inquiry: &Inquiry) -> ReplicaAnswer {
        let followers = inquiry.topic().map(|topic| self.followers.of(topic).into_iter().collect::<HashSet<_>>());
        (self.local.answer)(inquiry, followers.as_ref())
    }

    async fn ask_replicas(&self, inquiry: &Inquiry) -> Result<InquiryAnswers, RegistryUnavailable> {
        let until = Instant::now() + ANSWER_TIMEOUT;
        let number = self.inquiries.next.fetch_add(1, Ordering::Relaxed);
        let (sender, mut received) = mpsc::channel(ANSWERS_MAX);
        self.inquiries.waiting.lock().insert(number, sender);
        let _open = OpenInquiry { inquiries: &self.inquiries, number };
        let replica = self.local.replica.to_string();
        let question = ChannelMessage::Inquire(InquiryQuestion { number, replica, inquiry: inquiry.clone() });
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(self.keys().control_all()).arg(question.encode());
        // The number of subscribers when the question was published, including this replica.
        let listeners: usize = commands::ask(self.control_link(), &publish).await?;
        let mut answers = Vec::new();
        while answers.len() < listeners {
            let Ok(Some(answer)) = tokio::time::timeout_at(until, received.recv()).await else { break };
            let settled = inquiry.is_settled_by(&answer);
            answers.push(answer);
            if settled {
                return Ok(InquiryAnswers { answers, complete: true });
            }
        }
        let complete = answers.len() >= listeners;
        Ok(InquiryAnswers { answers, complete })
    }
}
