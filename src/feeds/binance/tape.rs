//! The trades of one symbol in the order of their ids: duplicates dropped, holes filled or reported. Pure; times only
//! determine how long to wait.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{frame::AggregateTrade, payload::TradePosition};
use crate::defect::{self, Defect};

/// Maximum number of trades of one symbol that wait behind a hole.
const HELD_MAX: usize = 10_000;
/// A longer hole is reported, not filled.
const HOLE_MAX: u64 = 5_000;
/// Maximum number of unsuccessful requests for one hole.
const TRIES_MAX: u32 = 3;
/// Time between two requests: the exchange's database may lag behind its stream.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// How long a hole may stay open after the first request for it.
const FILL_TIME_MAX: Duration = Duration::from_secs(5);
/// How long it may stay open in total: its first request waits while others are in progress.
const HOLE_AGE_MAX: Duration = Duration::from_secs(60);
/// How long the ticker may know a trade that the stream has not delivered.
const BEHIND_MAX: Duration = Duration::from_secs(2);
/// A stored position newer than a trade with a smaller id belongs to another exchange.
const OTHER_EXCHANGE_MS: u64 = 60_000;
/// How long, and how many, rising ids that are all too small show that the exchange has restarted its numbering.
const RECOUNT_TIME: Duration = Duration::from_secs(10);
const RECOUNT_TRADES: u32 = 10;

/// A trade to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TapeTrade {
    pub id: u64,
    pub last_raw: i64,
    pub time_ms: u64,
    pub payload: Bytes,
    /// It was fetched later.
    pub backfilled: bool,
}

impl TapeTrade {
    /// A trade with its message.
    pub(super) fn new(trade: &AggregateTrade<'_>, payload: Bytes, backfilled: bool) -> Self {
        Self { id: trade.id, last_raw: trade.last_raw, time_ms: trade.time_ms, payload, backfilled }
    }
}

/// What to publish, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TapeEvent {
    Trade(TapeTrade),
    Gap { from: u64, to: u64 },
}

/// The result of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    New,
    Repeat,
}

/// The trades of one symbol.
#[derive(Debug, Default)]
pub(super) struct Tape {
    /// Whether the position of the published stream is known.
    begun: bool,
    last: Option<u64>,
    /// Until a first trade arrives: the position at which this replica took over.
    stored: Option<TradePosition>,
    /// The newest raw id seen.
    last_raw: Option<i64>,
    behind: Option<(Instant, i64)>,
    hole: Option<TradeHole>,
    held: VecDeque<TapeTrade>,
    repeats: Option<Repeats>,
}

#[derive(Debug)]
struct TradeHole {
    next: u64,
    /// The last missing id; `None` until a trade behind the hole arrives.
    to: Option<u64>,
    /// The raw id in the ticker, if that opened the hole.
    reaches_raw: Option<i64>,
    opened: Instant,
    /// When trades were first requested.
    requested: Option<Instant>,
    ready: Instant,
    tries: u32,
    under_way: bool,
}

/// Duplicates without a new trade between them.
#[derive(Debug)]
struct Repeats {
    since: Instant,
    count: u32,
    newest: u64,
}

impl Tape {
    /// Sets the position of the published stream: arrivals wait until it is known.
    pub(super) fn begin(&mut self, stored: Option<TradePosition>, now: Instant) -> Vec<TapeEvent> {
        self.begun = true;
        self.stored = stored;
        self.last = stored.map(|mark| mark.id);
        self.release(now)
    }

    pub(super) const fn has_begun(&self) -> bool {
        self.begun
    }

    /// Waiting trades.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Handles a trade of the stream.
    pub(super) fn arrive(&mut self, trade: TapeTrade, now: Instant) -> (Arrived, Vec<TapeEvent>) {
        self.last_raw = self.last_raw.max(Some(trade.last_raw));
        let id = trade.id;
        let (arrived, mut events) = if !self.begun || self.hole.is_some() {
            self.hold(trade.clone(), now)
        } else {
            let mut events = Vec::new();
            (self.place(trade.clone(), now, &mut events), events)
        };
        if arrived == Arrived::New {
            self.repeats = None;
        } else if self.is_recounted(id, now) {
            (self.last, self.last_raw, self.behind, self.repeats) = (None, Some(trade.last_raw), None, None);
            self.place(trade, now, &mut events);
            return (Arrived::New, events);
        }
        (arrived, events)
    }

    /// Whether the exchange restarted its numbering, as a test network does after a reset.
    fn is_recounted(&mut self, id: u64, now: Instant) -> bool {
        let repeats = self.repeats.get_or_insert(Repeats { since: now, count: 0, newest: 0 });
        if id <= repeats.newest {
            *repeats = Repeats { since: now, count: 0, newest: id };
            return false;
        }
        (repeats.newest, repeats.count) = (id, repeats.count + 1);
        self.hole.is_none() && repeats.count >= RECOUNT_TRADES && now >= repeats.since + RECOUNT_TIME
    }

    fn hold(&mut self, trade: TapeTrade, now: Instant) -> (Arrived, Vec<TapeEvent>) {
        let newest = self.held.back().map(|held| held.id).or(self.last);
        if newest.is_some_and(|newest| trade.id <= newest) && self.begun {
            return (Arrived::Repeat, Vec::new());
        }
        if let Some(hole) = &mut self.hole
            && hole.to.is_none()
        {
            hole.to = trade.id.checked_sub(1);
        }
        self.held.push_back(trade);
        let events = if self.held.len() > HELD_MAX { self.overflow(now) } else { Vec::new() };
        (Arrived::New, events)
    }

    /// Makes room: gives up the hole for which trades wait.
    pub(super) fn overflow(&mut self, now: Instant) -> Vec<TapeEvent> {
        if self.begun {
            return self.give_up(now);
        }
        // The position is not known yet: what is dropped here becomes a hole behind it.
        self.held.pop_front();
        Vec::new()
    }

    /// Appends a trade to those before it, or opens a hole.
    fn place(&mut self, trade: TapeTrade, now: Instant, events: &mut Vec<TapeEvent>) -> Arrived {
        if let Some(stored) = self.stored.take()
            && trade.id <= stored.id
            && stored.time_ms > 0
            && trade.time_ms > stored.time_ms + OTHER_EXCHANGE_MS
        {
            self.last = None;
        }
        let next = self.last.map_or(trade.id, |last| last + 1);
        if trade.id < next {
            if defect::is(Defect::FeedRepeats) {
                events.push(TapeEvent::Trade(trade));
                return Arrived::New;
            }
            return Arrived::Repeat;
        }
        if trade.id > next {
            let to = trade.id - 1;
            if trade.id - next > HOLE_MAX {
                events.push(TapeEvent::Gap { from: next, to });
            } else {
                self.hole = Some(TradeHole::new(next, Some(to), None, now));
                self.held.push_back(trade);
                return Arrived::New;
            }
        }
        self.last = Some(trade.id);
        events.push(TapeEvent::Trade(trade));
        Arrived::New
    }

    /// Sets the newest raw id from the ticker. True if trades are overdue: then they are requested, and their stream
    /// should be resubscribed.
    pub(super) fn compare(&mut self, raw: i64, now: Instant) -> bool {
        let Some(last) = self.last else { return false };
        if !self.begun || self.hole.is_some() || raw < 0 || self.last_raw.is_some_and(|known| known >= raw) {
            self.behind = None;
            return false;
        }
        let (since, reaches) = *self.behind.get_or_insert((now, raw));
        if self.last_raw.is_some_and(|known| known >= reaches) {
            self.behind = Some((now, raw));
            return false;
        }
        if now < since + BEHIND_MAX {
            return false;
        }
        self.behind = None;
        self.hole = Some(TradeHole::new(last + 1, None, Some(raw), now));
        true
    }

    /// The id from which trades should be requested now.
    pub(super) fn wanted(&self, now: Instant) -> Option<u64> {
        let hole = self.hole.as_ref().filter(|hole| !hole.under_way && hole.ready <= now)?;
        Some(hole.next)
    }

    /// Records that trades were requested; no more requests before the response.
    pub(super) fn requested(&mut self, now: Instant) {
        if let Some(hole) = &mut self.hole {
            hole.under_way = true;
            hole.requested.get_or_insert(now);
        }
    }

    /// Handles the response: trades in the order of their ids, `full` if there may be more.
    pub(super) fn filled(&mut self, trades: Vec<TapeTrade>, full: bool, now: Instant) -> Vec<TapeEvent> {
        let Some(hole) = &mut self.hole else { return Vec::new() };
        hole.under_way = false;
        let (mut events, mut is_progress) = (Vec::new(), false);
        for trade in trades {
            if trade.id != hole.next || hole.to.is_some_and(|to| trade.id > to) {
                continue;
            }
            is_progress = true;
            hole.next += 1;
            self.last = Some(trade.id);
            self.last_raw = self.last_raw.max(Some(trade.last_raw));
            events.push(TapeEvent::Trade(trade));
        }
        let is_closed = match hole.to {
            Some(to) => hole.next > to,
            None => !full && (is_progress || hole.tries + 1 >= TRIES_MAX),
        };
        if is_closed {
            // The exchange returns no further trades, even if the ticker counted more.
            self.last_raw = self.last_raw.max(hole.reaches_raw);
            self.hole = None;
            events.extend(self.release(now));
        } else if is_progress {
            (hole.tries, hole.ready) = (0, now);
        } else {
            hole.tries += 1;
            hole.ready = now + RETRY_INTERVAL;
            if hole.tries >= TRIES_MAX {
                events.extend(self.give_up(now));
            }
        }
        events
    }

    /// The request failed or was not allowed, and the next one may not be made before `ready`.
    pub(super) fn not_filled(&mut self, ready: Instant, now: Instant) -> Vec<TapeEvent> {
        let Some(hole) = &mut self.hole else { return Vec::new() };
        hole.under_way = false;
        hole.ready = ready.max(now + RETRY_INTERVAL);
        if hole.ready > hole.deadline(now) { self.give_up(now) } else { Vec::new() }
    }

    /// Gives up a hole that has been open too long.
    pub(super) fn check(&mut self, now: Instant) -> Vec<TapeEvent> {
        let is_overdue = self.hole.as_ref().is_some_and(|hole| now >= hole.deadline(now));
        if is_overdue { self.give_up(now) } else { Vec::new() }
    }

    /// Reports what is missing and continues behind it.
    fn give_up(&mut self, now: Instant) -> Vec<TapeEvent> {
        let Some(hole) = self.hole.take() else { return Vec::new() };
        let mut events = Vec::new();
        if let Some(to) = hole.to.filter(|to| *to >= hole.next) {
            events.push(TapeEvent::Gap { from: hole.next, to });
            self.last = Some(to);
        } else {
            self.last_raw = self.last_raw.max(hole.reaches_raw);
        }
        events.extend(self.release(now));
        events
    }

    /// Appends the held trades, up to the next hole in them.
    fn release(&mut self, now: Instant) -> Vec<TapeEvent> {
        let mut events = Vec::new();
        let mut held = std::mem::take(&mut self.held);
        while let Some(trade) = held.pop_front() {
            if self.hole.is_some() {
                self.held.push_back(trade);
            } else {
                self.place(trade, now, &mut events);
            }
        }
        events
    }
}

impl TradeHole {
    const fn new(next: u64, to: Option<u64>, reaches_raw: Option<i64>, now: Instant) -> Self {
        Self { next, to, reaches_raw, opened: now, requested: None, ready: now, tries: 0, under_way: false }
    }

    /// When the hole is given up.
    fn deadline(&self, now: Instant) -> Instant {
        (self.requested.unwrap_or(now) + FILL_TIME_MAX).min(self.opened + HOLE_AGE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trade(id: u64) -> TapeTrade {
        TapeTrade { id, last_raw: id as i64 * 10, time_ms: 1_000, payload: Bytes::new(), backfilled: false }
    }

    fn shown(events: &[TapeEvent]) -> Vec<String> {
        let one = |event: &TapeEvent| match event {
            TapeEvent::Trade(trade) => trade.id.to_string(),
            TapeEvent::Gap { from, to } => format!("{from}..{to} lost"),
        };
        events.iter().map(one).collect()
    }

    fn at(last: u64) -> (Tape, Instant) {
        let (mut tape, now) = (Tape::default(), Instant::now());
        assert!(tape.begin(Some(TradePosition { id: last, time_ms: 0 }), now).is_empty());
        (tape, now)
    }

    fn arrive(tape: &mut Tape, id: u64, now: Instant) -> Vec<String> {
        shown(&tape.arrive(trade(id), now).1)
    }

    fn request(tape: &mut Tape, now: Instant) -> Option<u64> {
        let from = tape.wanted(now);
        if from.is_some() {
            tape.requested(now);
        }
        from
    }

    #[test]
    fn duplicates_are_dropped_and_the_next_trade_is_published() {
        let (mut tape, now) = at(5);
        assert_eq!(arrive(&mut tape, 6, now), ["6"]);
        assert_eq!(tape.arrive(trade(6), now), (Arrived::Repeat, vec![]));
        assert_eq!(tape.arrive(trade(3), now), (Arrived::Repeat, vec![]));
        assert_eq!(arrive(&mut tape, 7, now), ["7"]);
    }

    #[test]
    fn a_hole_is_filled_before_the_trades_behind_it() {
        let (mut tape, now) = at(5);
        assert!(arrive(&mut tape, 9, now).is_empty());
        assert_eq!(request(&mut tape, now), Some(6));
        assert_eq!(request(&mut tape, now), None, "requested already");
        assert!(arrive(&mut tape, 10, now).is_empty());
        let published = tape.filled((6..=12).map(trade).collect(), false, now);
        assert_eq!(shown(&published), ["6", "7", "8", "9", "10"]);
        assert_eq!(arrive(&mut tape, 11, now), ["11"]);
    }

    #[test]
    fn an_unfillable_hole_is_reported_with_its_exact_range() {
        let (mut tape, mut now) = at(5);
        arrive(&mut tape, 9, now);
        request(&mut tape, now);
        assert_eq!(shown(&tape.filled(vec![trade(6)], false, now)), ["6"]);
        for _ in 0..2 {
            now += RETRY_INTERVAL;
            assert!(request(&mut tape, now).is_some());
            assert!(tape.filled(vec![], false, now).is_empty());
        }
        now += RETRY_INTERVAL;
        request(&mut tape, now);
        assert_eq!(shown(&tape.filled(vec![], false, now)), ["7..8 lost", "9"]);
    }

    #[test]
    fn a_lasting_refusal_is_not_waited_for() {
        let (mut tape, now) = at(5);
        arrive(&mut tape, 8, now);
        request(&mut tape, now);
        assert!(tape.not_filled(now + Duration::from_secs(1), now).is_empty());
        assert_eq!(request(&mut tape, now), None, "not before it is allowed");
        assert_eq!(shown(&tape.not_filled(now + Duration::from_secs(60), now)), ["6..7 lost", "8"]);
        arrive(&mut tape, 10, now);
        assert!(tape.check(now + FILL_TIME_MAX).is_empty(), "not requested yet");
        request(&mut tape, now + FILL_TIME_MAX);
        assert!(tape.check(now + FILL_TIME_MAX * 2 - RETRY_INTERVAL).is_empty());
        assert_eq!(shown(&tape.check(now + FILL_TIME_MAX * 2)), ["9..9 lost", "10"]);
    }

    #[test]
    fn a_hole_without_a_request_ends_as_well() {
        let (mut tape, now) = at(5);
        arrive(&mut tape, 8, now);
        assert_eq!(shown(&tape.check(now + HOLE_AGE_MAX)), ["6..7 lost", "8"]);
    }

    #[test]
    fn restarted_numbering_is_followed_after_a_while() {
        let (mut tape, now) = at(1_000);
        assert_eq!(arrive(&mut tape, 1_001, now), ["1001"]);
        for step in 0..20 {
            let events = arrive(&mut tape, 1 + step, now + Duration::from_millis(500) * step as u32);
            assert!(events.is_empty(), "{step}: {events:?}");
        }
        assert_eq!(arrive(&mut tape, 21, now + RECOUNT_TIME), ["21"]);
        assert_eq!(arrive(&mut tape, 22, now + RECOUNT_TIME), ["22"]);
    }

    #[test]
    fn repeated_duplicates_are_not_restarted_numbering() {
        let (mut tape, now) = at(1_000);
        for step in 0..60 {
            let events = arrive(&mut tape, 900 + step % 5, now + Duration::from_secs(step));
            assert!(events.is_empty(), "{step}: {events:?}");
        }
    }

    #[test]
    fn trades_before_the_position_is_known_wait_and_a_second_hole_among_them_is_found() {
        let (mut tape, now) = (Tape::default(), Instant::now());
        for id in [7, 8, 11] {
            assert!(arrive(&mut tape, id, now).is_empty());
        }
        assert_eq!(shown(&tape.begin(Some(TradePosition { id: 6, time_ms: 0 }), now)), ["7", "8"]);
        assert_eq!(tape.wanted(now), Some(9));
        assert_eq!(shown(&tape.filled(vec![trade(9), trade(10)], false, now)), ["9", "10", "11"]);
    }

    #[test]
    fn an_unknown_stream_starts_with_the_first_trade() {
        let (mut tape, now) = (Tape::default(), Instant::now());
        tape.begin(None, now);
        assert_eq!(arrive(&mut tape, 100, now), ["100"]);
    }

    #[test]
    fn a_position_of_another_exchange_does_not_block_this_one() {
        let (mut tape, now) = (Tape::default(), Instant::now());
        tape.begin(Some(TradePosition { id: 1_000, time_ms: 1_000 }), now);
        let later = TapeTrade { time_ms: 1_000 + OTHER_EXCHANGE_MS + 1, ..trade(5) };
        assert_eq!(shown(&tape.arrive(later, now).1), ["5"]);
    }

    #[test]
    fn the_ticker_shows_that_trades_are_overdue() {
        let (mut tape, now) = at(5);
        arrive(&mut tape, 6, now);
        assert!(!tape.compare(60, now), "nothing missing");
        assert!(!tape.compare(70, now));
        assert!(!tape.compare(80, now + Duration::from_secs(1)));
        assert!(tape.compare(90, now + BEHIND_MAX));
        assert_eq!(tape.wanted(now + BEHIND_MAX), Some(7));
        let published = tape.filled(vec![trade(7), trade(8), trade(9)], false, now);
        assert_eq!(shown(&published), ["7", "8", "9"]);
        assert!(!tape.compare(90, now + BEHIND_MAX * 3));
    }

    #[test]
    fn late_trades_are_not_overdue() {
        let (mut tape, now) = at(5);
        arrive(&mut tape, 6, now);
        assert!(!tape.compare(70, now));
        arrive(&mut tape, 7, now + Duration::from_secs(1));
        assert!(!tape.compare(80, now + Duration::from_secs(3)), "70 arrived; 80 is new");
    }

    #[test]
    fn a_hole_too_long_to_fill_is_reported_at_once_and_a_flood_behind_one_ends_it() {
        let (mut tape, now) = at(5);
        assert_eq!(arrive(&mut tape, 10_000, now), ["6..9999 lost", "10000"]);
        arrive(&mut tape, 10_002, now);
        let mut published = Vec::new();
        for id in 10_003..10_003 + HELD_MAX as u64 {
            published.extend(tape.arrive(trade(id), now).1);
        }
        assert_eq!(shown(&published)[..2], ["10001..10001 lost", "10002"]);
        assert_eq!(published.len(), HELD_MAX + 2);
    }
}
