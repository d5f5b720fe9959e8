//! Counters of what the connections received. The sequence number in every message reveals loss and reordering.

use crate::{latency::Latencies, stamp::PayloadStamp};

/// Counts of all connections of a thread.
#[derive(Debug)]
pub(crate) struct ThreadCounts {
    /// Deliveries of streams that must be complete.
    pub(crate) received: u64,
    /// Deliveries of streams that may be conflated.
    pub(crate) received_conflated: u64,
    /// Messages of complete streams that a connection's sequence skipped.
    pub(crate) skipped: u64,
    /// Messages of conflated streams that were replaced before delivery.
    pub(crate) replaced: u64,
    /// Deliveries that were repeated, or arrived after a later one.
    pub(crate) disordered: u64,
    /// Messages that reported a gap.
    pub(crate) gaps: u64,
    pub(crate) latency: Latencies,
    /// For deliveries to steady readers: until they arrived in the reader's kernel, where they may wait to be read.
    pub(crate) arrival: Latencies,
    /// When the last delivery came.
    pub(crate) last_ns: u64,
    /// Total number of connections that became ready.
    pub(crate) ready: usize,
    /// Total number of connections that ended.
    pub(crate) closed: usize,
    /// Why the first connection ended.
    pub(crate) trouble: Option<String>,
    /// The first error message of the server.
    pub(crate) refusal: Option<String>,
}

impl ThreadCounts {
    pub(crate) fn new() -> Self {
        Self {
            received: 0,
            received_conflated: 0,
            skipped: 0,
            replaced: 0,
            disordered: 0,
            gaps: 0,
            latency: Latencies::new(),
            arrival: Latencies::new(),
            last_ns: 0,
            ready: 0,
            closed: 0,
            trouble: None,
            refusal: None,
        }
    }

    /// All deliveries.
    pub(crate) fn deliveries(&self) -> u64 {
        self.received + self.received_conflated
    }

    /// Counts a delivery on a connection that has `seen` these sequences.
    pub(crate) fn delivered(&mut self, now_ns: u64, stamp: &PayloadStamp, conflated: bool, seen: &mut [(u32, u32)]) {
        self.latency.record(now_ns.saturating_sub(stamp.sent_ns));
        self.last_ns = now_ns;
        *(if conflated { &mut self.received_conflated } else { &mut self.received }) += 1;
        let Some((_, last)) = seen.iter_mut().find(|(stream, _)| *stream == stamp.stream) else {
            // This stream was not requested.
            self.disordered += 1;
            return;
        };
        if stamp.seq <= *last {
            self.disordered += 1;
            return;
        }
        let jumped = if *last == 0 { 0 } else { u64::from(stamp.seq - *last - 1) };
        *(if conflated { &mut self.replaced } else { &mut self.skipped }) += jumped;
        *last = stamp.seq;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_duplicates_and_unknown_streams_are_counted() {
        let mut tally = ThreadCounts::new();
        let mut seen = [(3, 0), (4, 0)];
        let mut receive = |tally: &mut ThreadCounts, stream, seq, conflated| {
            tally.delivered(9, &PayloadStamp { sent_ns: 4, stream, seq }, conflated, &mut seen);
        };
        for seq in [5, 6, 9, 9, 8, 10] {
            receive(&mut tally, 3, seq, false);
        }
        assert_eq!((tally.received, tally.skipped, tally.disordered), (6, 2, 2));
        receive(&mut tally, 4, 1, true);
        receive(&mut tally, 4, 4, true);
        assert_eq!((tally.received_conflated, tally.replaced, tally.skipped), (2, 2, 2));
        receive(&mut tally, 7, 1, false);
        assert_eq!(tally.disordered, 3);
        assert_eq!(tally.deliveries(), 9);
    }
}
