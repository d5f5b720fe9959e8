//! Keeps followed topics equal to their streams: compares heads, reads what is missing. The only part of the hub that
//! waits for the backplane; never while it holds a lock.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tickgate_wire::model::{Class, StreamId, Topic};
use tokio::sync::Notify;

use super::{
    Hub,
    topic::{Followed, Todo},
};
use crate::{
    backplane::{Page, ReadLimits, Unavailable},
    tasks::{Stop, Tasks},
};

/// Streams whose heads are read in one go.
const COMPARE_MAX: usize = 512;
/// What is read in one go.
const PAGE: ReadLimits = ReadLimits::new(500, 4 << 20);
/// Streams that are read at the same time.
const READERS: usize = 4;
/// Pause after a failed read. A lost link is confirmed anew anyway; this is for everything else.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Topics that wait to be compared or read.
#[derive(Debug, Default)]
pub(super) struct Lines {
    compare: Line,
    read: Line,
}

#[derive(Debug, Default)]
struct Line {
    waiting: Mutex<VecDeque<Weak<Followed>>>,
    wake: Notify,
}

impl Line {
    fn push(&self, topic: &Arc<Followed>) {
        self.waiting.lock().push_back(Arc::downgrade(topic));
        self.wake.notify_one();
    }

    /// Up to `max` topics that still exist; waits for the first.
    async fn take(&self, max: usize) -> Vec<Arc<Followed>> {
        loop {
            let batch: Vec<_> = {
                let mut waiting = self.waiting.lock();
                let count = waiting.len().min(max);
                waiting.drain(..count).filter_map(|topic| topic.upgrade()).collect()
            };
            if !batch.is_empty() {
                // Another worker may have been told of the same push.
                self.wake.notify_one();
                return batch;
            }
            self.wake.notified().await;
        }
    }
}

impl Lines {
    /// To be compared with what its stream has from now on. A topic that waits for that already does not wait twice.
    pub(super) fn compare(&self, topic: &Arc<Followed>) {
        if topic.awaits_comparison() {
            self.compare.push(topic);
        }
    }

    pub(super) fn read(&self, topic: &Arc<Followed>) {
        self.read.push(topic);
    }
}

impl Hub {
    /// Starts the tasks that compare and read.
    pub(super) fn start_following(self: &Arc<Self>, tasks: &Tasks, compare_interval: Duration) {
        let hub = self.clone();
        let stop = tasks.stop();
        tasks.spawn("compare", async move { until(stop, hub.compare_forever()).await });
        for _ in 0..READERS {
            let hub = self.clone();
            let stop = tasks.stop();
            tasks.spawn("fill", async move { until(stop, hub.read_forever()).await });
        }
        let hub = self.clone();
        let stop = tasks.stop();
        tasks.spawn("quiet", async move { until(stop, hub.watch_quiet(compare_interval)).await });
    }

    async fn compare_forever(&self) {
        loop {
            let topics = self.lines.compare.take(COMPARE_MAX).await;
            topics.iter().for_each(|topic| topic.is_compared());
            let names: Vec<Topic> = topics.iter().map(|t| t.topic.clone()).collect();
            match self.backplane.heads(&names).await {
                Ok(heads) => {
                    for (topic, head) in topics.iter().zip(heads) {
                        if topic.compared(head, &self.shards) == Todo::Read {
                            self.lines.read(topic);
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, topics = topics.len(), "heads can't be compared now");
                    tokio::time::sleep(RETRY_AFTER).await;
                    topics.iter().for_each(|topic| self.lines.compare(topic));
                }
            }
        }
    }

    async fn read_forever(&self) {
        loop {
            for topic in self.lines.read.take(1).await {
                self.fill(&topic).await;
            }
        }
    }

    /// Reads after the position until nothing is missing.
    async fn fill(&self, topic: &Arc<Followed>) {
        self.metrics.fills_total.inc();
        loop {
            let asked = topic.ask();
            match self.page(topic, asked.cursor).await {
                Ok(page) => {
                    if topic.filled(asked, &page, &self.shards) == Todo::Nothing {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a hole can't be filled now");
                    topic.unfilled();
                    tokio::time::sleep(RETRY_AFTER).await;
                    self.lines.compare(topic);
                    return;
                }
            }
        }
    }

    async fn page(&self, topic: &Followed, after: StreamId) -> Result<Page, Unavailable> {
        if topic.rule.class == Class::State {
            let messages = self.backplane.newest(&topic.topic, ReadLimits::ONE).await?.messages;
            return Ok(Page { messages, contiguous: true, more: false });
        }
        self.backplane.read(&topic.topic, after, PAGE).await
    }

    /// A link can be deaf without an error, so topics that went quiet are compared as well.
    async fn watch_quiet(&self, interval: Duration) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let retained = self.topics.all().into_iter().filter(|topic| topic.rule.retain_max > 0);
            retained.filter(|topic| topic.is_quiet()).for_each(|topic| self.lines.compare(&topic));
        }
    }

    /// The first comparison of a topic without retention needs no stream.
    pub(super) fn begin(&self, topic: &Arc<Followed>) {
        if topic.rule.retain_max == 0 {
            let _ = topic.compared(StreamId::ZERO, &self.shards);
        } else {
            self.lines.compare(topic);
        }
    }
}

async fn until(mut stop: Stop, work: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = work => {}
        () = stop.wait() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::linger::tests::hub;

    #[tokio::test]
    async fn a_topic_waits_once_to_be_compared() {
        let tasks = Tasks::new();
        let (hub, rule) = hub(&tasks);
        let interest = hub.interest(&Topic::public("ticker:X").unwrap(), &rule).unwrap();
        interest.ready(Duration::from_secs(1)).await.unwrap();
        for _ in 0..10 {
            hub.lines.compare(interest.topic());
        }
        assert_eq!(hub.lines.compare.waiting.lock().len(), 1);
        // Taken out, it may wait again.
        tokio::time::timeout(Duration::from_secs(1), async {
            while !hub.lines.compare.waiting.lock().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        hub.lines.compare(interest.topic());
        assert_eq!(hub.lines.compare.waiting.lock().len(), 1);
    }
}
