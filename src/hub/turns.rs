//! Whose turn it is to read streams: what clients miss is read by so many at once, and the readers that wait are served in
//! turn, one read each, so that one who asks for much waits for himself. Never knows who a reader is.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::backplane::Unavailable;

/// Who reads, as far as turns are concerned: all connections of one address are one reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reader(pub u64);

/// The turns of a replica.
#[derive(Debug)]
pub(super) struct Turns {
    state: Mutex<State>,
    timeout: Duration,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Who waits, in the order in which they are served.
    order: VecDeque<Reader>,
    /// What waits for each of them, oldest first. A connection waits for one turn at a time.
    waiting: HashMap<Reader, VecDeque<oneshot::Sender<Turn>>>,
}

/// A turn; over when it is dropped.
#[derive(Debug)]
pub struct Turn(Option<Arc<Turns>>);

impl Turns {
    /// `at_once`: how many have a turn at the same time. Nobody waits longer than `timeout`.
    pub(super) fn new(at_once: usize, timeout: Duration) -> Arc<Self> {
        let state = State { free: at_once.max(1), order: VecDeque::new(), waiting: HashMap::new() };
        Arc::new(Self { state: Mutex::new(state), timeout })
    }

    /// A turn, if nobody has to be waited for.
    pub(super) fn try_take(self: &Arc<Self>) -> Option<Turn> {
        let mut state = self.state.lock();
        state.free = state.free.checked_sub(1)?;
        Some(Turn(Some(Arc::clone(self))))
    }

    /// Waits for a turn.
    pub(super) async fn take(self: &Arc<Self>, reader: Reader) -> Result<Turn, Unavailable> {
        let turn = {
            let mut state = self.state.lock();
            if let Some(free) = state.free.checked_sub(1) {
                state.free = free;
                return Ok(Turn(Some(Arc::clone(self))));
            }
            let (sender, turn) = oneshot::channel();
            if !state.waiting.contains_key(&reader) {
                state.order.push_back(reader);
            }
            state.waiting.entry(reader).or_default().push_back(sender);
            turn
        };
        match tokio::time::timeout(self.timeout, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Unavailable("too many read what they missed".into())),
        }
    }
}

impl State {
    /// Who is served next; whoever has more that waits comes last again.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let reader = self.order.pop_front()?;
        let queue = self.waiting.get_mut(&reader)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&reader);
        } else {
            self.order.push_back(reader);
        }
        next
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else { return };
        let mut state = turns.state.lock();
        while let Some(next) = state.next() {
            match next.send(Self(Some(Arc::clone(&turns)))) {
                Ok(()) => return,
                // Nobody waits there any more.
                Err(mut unwanted) => unwanted.0 = None,
            }
        }
        state.free += 1;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::BoxFuture};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn wait(turns: &Arc<Turns>, reader: u64) -> BoxFuture<'static, Result<Turn, Unavailable>> {
        let turns = Arc::clone(turns);
        let mut waiting = async move { turns.take(Reader(reader)).await }.boxed();
        assert!((&mut waiting).now_or_never().is_none(), "there is a turn for {reader}");
        waiting
    }

    #[tokio::test]
    async fn readers_that_wait_are_served_in_turn_however_much_one_asks_for() {
        let turns = Turns::new(1, PATIENCE);
        let first = turns.take(Reader(1)).await.unwrap();
        let mut greedy: Vec<_> = (0..100).map(|_| wait(&turns, 1)).collect();
        let mut other = wait(&turns, 2);
        drop(first);
        let second = (&mut greedy[0]).now_or_never().expect("whoever waits longest").unwrap();
        assert!((&mut other).now_or_never().is_none());
        drop(second);
        let third = (&mut other).now_or_never().expect("the other one comes before the second of the first").unwrap();
        assert!((&mut greedy[1]).now_or_never().is_none());
        drop(third);
        assert!((&mut greedy[1]).now_or_never().is_some());
    }

    #[tokio::test]
    async fn whoever_stops_waiting_costs_no_turn() {
        let turns = Turns::new(2, PATIENCE);
        let (one, two) = (turns.take(Reader(1)).await.unwrap(), turns.take(Reader(1)).await.unwrap());
        let (gone, mut stays) = (wait(&turns, 2), wait(&turns, 3));
        drop(gone);
        drop(one);
        let three = (&mut stays).now_or_never().expect("the turn goes on").unwrap();
        // Given away, and never looked at.
        let unseen = wait(&turns, 4);
        drop(two);
        drop(unseen);
        drop(three);
        let state = turns.state.lock();
        assert_eq!((state.free, state.order.len(), state.waiting.len()), (2, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let turns = Turns::new(1, PATIENCE);
        let _held = turns.take(Reader(1)).await.unwrap();
        assert!(turns.take(Reader(2)).await.is_err());
    }
}
