//! Schedules stream reads for clients, and bounds the memory of what was read. A limited number of reads run at once;
//! readers are served round-robin, one read each; and what is read takes memory, in total and per reader, until its
//! client has it. What a reader reads above its rate, it waits for. So a reader that requests much, or does not accept
//! it, delays only itself. Does not know which client a reader belongs to.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use crate::{backplane::StreamUnavailable, bucket::Bucket, config::Rate};

/// Minimum number of remembered readers before idle ones are removed.
const SWEEP_MIN: usize = 1_024;

/// A reader: all connections of one address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderAddress(pub u64);

/// Limits of concurrent reads and of memory.
#[derive(Clone, Copy, Debug)]
pub struct TurnLimits {
    /// Maximum number of concurrent reads; one reader may have half of them.
    pub at_once: usize,
    /// Maximum number of bytes in total and per reader.
    pub bytes_max: usize,
    /// The same limit for one address.
    pub reader_bytes_max: usize,
    /// Bytes that one reader may read.
    pub reader_rate: Rate,
    /// Maximum waiting time.
    pub timeout: Duration,
}

/// The turns of a replica.
#[derive(Debug)]
pub(super) struct ReadTurns {
    limits: TurnLimits,
    began: Instant,
    state: Mutex<TurnTable>,
}

#[derive(Debug, Default)]
struct TurnTable {
    turns: usize,
    bytes: usize,
    readers: HashMap<ReaderAddress, ReaderUsage>,
    /// Waiting readers below their own limit, in the order in which they are served.
    order: VecDeque<ReaderAddress>,
    sweep_at: usize,
}

/// What one reader holds, and what it waits for.
#[derive(Debug, Default)]
struct ReaderUsage {
    turns: usize,
    bytes: usize,
    read: Bucket,
    /// Oldest first. A connection waits for one turn at a time.
    waiting: VecDeque<WaitingRead>,
    in_order: bool,
}

#[derive(Debug)]
struct WaitingRead {
    bytes: usize,
    sender: oneshot::Sender<ReadTurn>,
}

/// A turn and the reservation for what is read; both are released when it is dropped.
#[derive(Debug)]
pub struct ReadTurn {
    turns: Option<Arc<ReadTurns>>,
    reader: ReaderAddress,
    bytes: usize,
}

/// The reservation of memory for what was read, until its client has it; released when dropped.
#[derive(Debug)]
pub struct MemoryReservation {
    turns: Arc<ReadTurns>,
    reader: ReaderAddress,
    bytes: usize,
}

impl TurnLimits {
    fn reader_turns_max(&self) -> usize {
        self.at_once.div_ceil(2)
    }
}

impl ReadTurns {
    pub(super) fn new(limits: TurnLimits) -> Arc<Self> {
        let limits = TurnLimits { at_once: limits.at_once.max(1), ..limits };
        Arc::new(Self { limits, began: Instant::now(), state: Mutex::default() })
    }

    /// A turn to read at most this many bytes, if available without waiting.
    pub(super) fn try_take(self: &Arc<Self>, reader: ReaderAddress, bytes: usize) -> Option<ReadTurn> {
        let bytes = bytes.min(self.limits.reader_bytes_max);
        let mut state = self.state.lock();
        let waits = state.readers.get(&reader).is_some_and(|usage| !usage.waiting.is_empty());
        if waits || !state.order.is_empty() || !state.has_room(bytes, &self.limits) {
            return None;
        }
        let usage = state.readers.entry(reader).or_default();
        if !usage.has_room(bytes, &self.limits) {
            return None;
        }
        usage.take(bytes);
        state.turns += 1;
        state.bytes += bytes;
        Some(ReadTurn { turns: Some(Arc::clone(self)), reader, bytes })
    }

    /// Waits for a turn to read at most this many bytes.
    pub(super) async fn take(
        self: &Arc<Self>,
        reader: ReaderAddress,
        bytes: usize,
    ) -> Result<ReadTurn, StreamUnavailable> {
        if let Some(turn) = self.try_take(reader, bytes) {
            return Ok(turn);
        }
        let (sender, turn) = oneshot::channel();
        let bytes = bytes.min(self.limits.reader_bytes_max);
        {
            let mut state = self.state.lock();
            let waiting = &mut state.readers.entry(reader).or_default().waiting;
            if waiting.len() == waiting.capacity() {
                waiting.retain(|wanted| !wanted.sender.is_closed());
            }
            waiting.push_back(WaitingRead { bytes, sender });
            state.line_up(reader, &self.limits);
            self.serve(&mut state);
        }
        match tokio::time::timeout(self.limits.timeout, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(StreamUnavailable("too many read what they missed".into())),
        }
    }

    /// Gives turns to waiting readers while there is room.
    fn serve(self: &Arc<Self>, state: &mut TurnTable) {
        while let Some(reader) = state.order.front().copied() {
            let Some(usage) = state.readers.get_mut(&reader) else {
                state.order.pop_front();
                continue;
            };
            // Requests that stopped waiting are removed without cost.
            while usage.waiting.front().is_some_and(|wanted| wanted.sender.is_closed()) {
                usage.waiting.pop_front();
            }
            let bytes = usage.waiting.front().map(|wanted| wanted.bytes);
            let Some(bytes) = bytes.filter(|bytes| usage.has_room(*bytes, &self.limits)) else {
                usage.in_order = false;
                state.order.pop_front();
                state.forget(reader, self.now());
                continue;
            };
            if !state.has_room(bytes, &self.limits) {
                return;
            }
            state.order.pop_front();
            let Some(usage) = state.readers.get_mut(&reader) else { continue };
            usage.in_order = false;
            let Some(wanted) = usage.waiting.pop_front() else { continue };
            usage.take(bytes);
            state.turns += 1;
            state.bytes += bytes;
            let turn = ReadTurn { turns: Some(Arc::clone(self)), reader, bytes };
            if let Err(mut unwanted) = wanted.sender.send(turn) {
                unwanted.turns = None;
                state.give_back(reader, 1, bytes, self.now());
            }
            // A reader with more requests goes to the end.
            state.line_up(reader, &self.limits);
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Number of reserved bytes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    fn give_back(self: &Arc<Self>, reader: ReaderAddress, turns: usize, bytes: usize) {
        let (mut state, now) = (self.state.lock(), self.now());
        state.give_back(reader, turns, bytes, now);
        state.line_up(reader, &self.limits);
        self.serve(&mut state);
    }
}

impl TurnTable {
    fn has_room(&self, bytes: usize, limits: &TurnLimits) -> bool {
        self.turns < limits.at_once && self.bytes + bytes <= limits.bytes_max
    }

    /// Queues a waiting reader, if it is below its own limit.
    fn line_up(&mut self, reader: ReaderAddress, limits: &TurnLimits) {
        let Some(usage) = self.readers.get_mut(&reader) else { return };
        let may = usage.waiting.front().is_some_and(|wanted| usage.has_room(wanted.bytes, limits));
        if may && !usage.in_order {
            usage.in_order = true;
            self.order.push_back(reader);
        }
    }

    fn give_back(&mut self, reader: ReaderAddress, turns: usize, bytes: usize, now: Duration) {
        self.turns -= turns;
        self.bytes -= bytes;
        if let Some(usage) = self.readers.get_mut(&reader) {
            usage.turns -= turns;
            usage.bytes -= bytes;
        }
        self.forget(reader, now);
    }

    /// Removes a reader that holds nothing, waits for nothing, and may read its burst; sometimes all of them.
    fn forget(&mut self, reader: ReaderAddress, now: Duration) {
        if self.readers.get(&reader).is_some_and(|usage| usage.is_idle(now)) {
            self.readers.remove(&reader);
        }
        if self.readers.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.readers.retain(|_, usage| !usage.is_idle(now));
            self.sweep_at = self.readers.len() * 2;
        }
    }
}

impl ReaderUsage {
    fn holds_nothing(&self) -> bool {
        self.turns == 0 && self.bytes == 0 && self.waiting.is_empty() && !self.in_order
    }

    fn is_idle(&self, now: Duration) -> bool {
        self.holds_nothing() && self.read.is_full(now)
    }

    fn has_room(&self, bytes: usize, limits: &TurnLimits) -> bool {
        self.turns < limits.reader_turns_max() && self.bytes + bytes <= limits.reader_bytes_max
    }

    fn take(&mut self, bytes: usize) {
        self.turns += 1;
        self.bytes += bytes;
    }
}

impl ReadTurn {
    /// Ends a read of this many bytes, which are reserved from here on. Waits as long as the reader's rate demands; the
    /// reader keeps its own turn meanwhile, others may read.
    pub async fn end(mut self, bytes: usize) -> Option<MemoryReservation> {
        let turns = self.turns.take()?;
        let (hold, wait) = {
            let (mut state, now) = (turns.state.lock(), turns.now());
            state.turns -= 1;
            // A page may be a little larger than requested.
            state.bytes = state.bytes - self.bytes + bytes;
            let usage = state.readers.entry(self.reader).or_default();
            usage.bytes = usage.bytes - self.bytes + bytes;
            let wait = usage.read.spend(bytes, now, turns.limits.reader_rate);
            turns.serve(&mut state);
            (MemoryReservation { turns: Arc::clone(&turns), reader: self.reader, bytes }, wait)
        };
        let own = OwnTurn { turns, reader: self.reader };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        drop(own);
        (bytes > 0).then_some(hold)
    }
}

/// One of a reader's own turns, after the read.
struct OwnTurn {
    turns: Arc<ReadTurns>,
    reader: ReaderAddress,
}

impl Drop for OwnTurn {
    fn drop(&mut self) {
        let (mut state, now) = (self.turns.state.lock(), self.turns.now());
        if let Some(usage) = state.readers.get_mut(&self.reader) {
            usage.turns -= 1;
        }
        state.forget(self.reader, now);
        state.line_up(self.reader, &self.turns.limits);
        self.turns.serve(&mut state);
    }
}

impl Drop for ReadTurn {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.take() {
            turns.give_back(self.reader, 1, self.bytes);
        }
    }
}

impl MemoryReservation {
    /// Merges another reservation of the same reader.
    pub fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Reduces it to this many bytes.
    pub fn shrink(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        self.turns.give_back(self.reader, 0, less);
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.turns.give_back(self.reader, 0, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::BoxFuture};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    const RATE: Rate = Rate { per_second: 10, burst: 1_000 };

    fn turns(at_once: usize) -> Arc<ReadTurns> {
        ReadTurns::new(TurnLimits {
            at_once,
            bytes_max: 100,
            reader_bytes_max: 40,
            reader_rate: RATE,
            timeout: PATIENCE,
        })
    }

    fn wait(
        turns: &Arc<ReadTurns>,
        reader: u64,
        bytes: usize,
    ) -> BoxFuture<'static, Result<ReadTurn, StreamUnavailable>> {
        let turns = Arc::clone(turns);
        let mut waiting = async move { turns.take(ReaderAddress(reader), bytes).await }.boxed();
        assert!((&mut waiting).now_or_never().is_none(), "there is a turn for {reader}");
        waiting
    }

    fn is_idle(turns: &Arc<ReadTurns>) -> bool {
        let state = turns.state.lock();
        (state.turns, state.bytes) == (0, 0)
            && state.readers.values().all(ReaderUsage::holds_nothing)
            && state.order.is_empty()
    }

    #[tokio::test]
    async fn waiting_readers_are_served_round_robin_however_much_one_requests() {
        let turns = turns(1);
        let first = turns.take(ReaderAddress(1), 0).await.unwrap();
        let mut greedy: Vec<_> = (0..100).map(|_| wait(&turns, 1, 0)).collect();
        let mut other = wait(&turns, 2, 0);
        drop(first);
        let second = (&mut other).now_or_never().expect("the first reader had its turn").unwrap();
        assert!((&mut greedy[0]).now_or_never().is_none());
        drop(second);
        let third = (&mut greedy[0]).now_or_never().expect("the reader that waited longest").unwrap();
        let mut again = wait(&turns, 2, 0);
        drop(third);
        let fourth = (&mut again).now_or_never().expect("before the first reader's second read").unwrap();
        drop(fourth);
        assert!((&mut greedy[1]).now_or_never().is_some());
        drop((greedy, other, again));
        assert!(turns.try_take(ReaderAddress(3), 0).is_some() && is_idle(&turns));
    }

    #[tokio::test]
    async fn one_reader_gets_at_most_half_of_the_turns() {
        let turns = turns(4);
        let _two = [1, 1].map(|reader| turns.try_take(ReaderAddress(reader), 0).unwrap());
        let mut third = wait(&turns, 1, 0);
        let other = turns.try_take(ReaderAddress(2), 0).expect("the rest is for other readers");
        assert!((&mut third).now_or_never().is_none());
        drop(other);
        assert!((&mut third).now_or_never().is_none());
    }

    #[tokio::test]
    async fn what_is_queued_for_clients_takes_memory_in_total_and_per_reader() {
        let turns = turns(8);
        let hold = |reader| {
            turns
                .try_take(ReaderAddress(reader), 20)
                .expect("room")
                .end(20)
                .now_or_never()
                .expect("it is within its rate")
                .unwrap()
        };
        let mut greedy: Vec<_> = [1, 1].map(hold).into();
        let mut more = wait(&turns, 1, 20);
        let others: Vec<_> = [2, 3].map(hold).into();
        assert!((&mut more).now_or_never().is_none(), "the reader is at its limit");
        let last = hold(4);
        let mut another = wait(&turns, 5, 20);
        drop(last);
        let another = (&mut another).now_or_never().expect("there is room for another reader").unwrap();
        greedy[0].shrink(10);
        assert!((&mut more).now_or_never().is_none());
        greedy.pop();
        drop(another);
        let more = (&mut more).now_or_never().expect("the reader is below its limit again").unwrap();
        let mut kept = more.end(5).await.unwrap();
        kept.join(greedy.pop().unwrap());
        assert_eq!(turns.state.lock().bytes, 55);
        drop((kept, others));
        assert!(is_idle(&turns));
    }

    #[tokio::test]
    async fn a_request_that_stops_waiting_takes_no_turn() {
        let turns = turns(2);
        let (one, two) =
            (turns.take(ReaderAddress(1), 0).await.unwrap(), turns.take(ReaderAddress(4), 0).await.unwrap());
        let (gone, mut stays) = (wait(&turns, 2, 0), wait(&turns, 3, 0));
        drop(gone);
        drop(one);
        let three = (&mut stays).now_or_never().expect("the turn is passed on").unwrap();
        // Granted, but never awaited.
        let unseen = wait(&turns, 5, 0);
        drop(two);
        drop(unseen);
        drop(three);
        assert!(turns.try_take(ReaderAddress(9), 0).is_some() && is_idle(&turns));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_waits_for_what_it_reads_above_its_rate_and_others_do_not() {
        let turns = turns(2);
        let (mut read, began) = (0, Instant::now());
        while read < 1_000 {
            drop(turns.take(ReaderAddress(1), 20).await.unwrap().end(20).await);
            read += 20;
        }
        assert_eq!(began.elapsed(), Duration::ZERO, "its burst");
        let mut above = turns.take(ReaderAddress(1), 20).await.unwrap().end(20).boxed();
        assert!((&mut above).now_or_never().is_none());
        let mut next = wait(&turns, 1, 20);
        drop(turns.take(ReaderAddress(2), 20).await.unwrap().end(20).await);
        assert_eq!(began.elapsed(), Duration::ZERO, "another reader");
        drop(above.await);
        assert_eq!(began.elapsed().as_secs(), 2);
        let next = (&mut next).now_or_never().expect("the reader's turn is free").unwrap();
        drop(next.end(20).boxed());
        assert!(is_idle(&turns), "a client that leaves while it waits");
        tokio::time::sleep(PATIENCE * 2).await;
        drop(turns.take(ReaderAddress(1), 0).await);
        assert!(
            turns.state.lock().readers.keys().all(|reader| *reader != ReaderAddress(1)),
            "forgotten when its burst is back"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_times_out() {
        let turns = turns(1);
        let _held = turns.take(ReaderAddress(1), 0).await.unwrap();
        assert!(turns.take(ReaderAddress(2), 0).await.is_err());
    }
}
