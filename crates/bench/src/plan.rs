//! The definition of a workload: streams, subscribers, and publishing rate. Opens no sockets.

use std::ops::Range;

use crate::target::{ChannelKind, Channels, WorkloadStream};

/// One subscribing connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct PlannedSubscriber {
    /// The streams it receives.
    pub(crate) streams: Vec<u32>,
    /// The user of its token.
    pub(crate) user: Option<String>,
    pub(crate) reading: ClientReading,
}

/// What a connection reads after subscribing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ClientReading {
    #[default]
    All,
    /// This many bytes per second.
    Steady(u32),
    Nothing,
}

/// The publishing rate.
#[derive(Clone, Debug)]
pub(crate) enum PublishRate {
    /// As fast as messages are delivered: at most this many deliveries in flight.
    Window(u64),
    /// At fixed times, regardless of deliveries.
    Rates(Vec<TotalRate>),
}

/// Streams published in turn, with this total number of messages per second.
#[derive(Clone, Debug)]
pub(crate) struct TotalRate {
    pub(crate) streams: Range<u32>,
    pub(crate) per_second: f64,
}

/// A workload's streams and connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkloadPlan {
    pub(crate) streams: Vec<WorkloadStream>,
    pub(crate) subscribers: Vec<PlannedSubscriber>,
}

impl WorkloadPlan {
    /// Adds `count` channels of a kind; returns the numbers of their streams.
    pub(crate) fn add_streams(&mut self, channels: &Channels, kind: ChannelKind, count: usize) -> Range<u32> {
        let start = self.streams.len() as u32;
        self.streams.extend((0..count).map(|number| WorkloadStream {
            channel: channels.name(kind, number),
            user: (kind == ChannelKind::Private).then(|| user(number)),
            subscribers: 0,
            conflated: kind == ChannelKind::State,
        }));
        start..self.streams.len() as u32
    }

    /// Adds a connection that subscribes to `streams`.
    pub(crate) fn subscribe(&mut self, streams: impl IntoIterator<Item = u32>) {
        let streams: Vec<u32> = streams.into_iter().collect();
        let user = streams.iter().find_map(|stream| self.streams[*stream as usize].user.clone());
        for stream in &streams {
            self.streams[*stream as usize].subscribers += 1;
        }
        self.subscribers.push(PlannedSubscriber { streams, user, reading: ClientReading::All });
    }

    /// Adds a connection that requests a stream and never reads; no delivery is expected.
    pub(crate) fn subscribe_slow(&mut self, stream: u32) {
        self.subscribers.push(PlannedSubscriber { streams: vec![stream], user: None, reading: ClientReading::Nothing });
    }

    /// Adds a connection that subscribes to `streams`, and reads this many bytes per second.
    pub(crate) fn subscribe_steady(&mut self, streams: Range<u32>, bytes_per_s: u32) {
        self.subscribe(streams);
        if let Some(subscriber) = self.subscribers.last_mut() {
            subscriber.reading = ClientReading::Steady(bytes_per_s);
        }
    }

    /// One topic and all its subscribers.
    pub(crate) fn fan_out(channels: &Channels, kind: ChannelKind, subscribers: usize) -> Self {
        let mut plan = Self::default();
        let stream = plan.add_streams(channels, kind, 1).start;
        (0..subscribers).for_each(|_| plan.subscribe([stream]));
        plan
    }

    /// As many topics as connections, one each.
    pub(crate) fn one_each(channels: &Channels, kind: ChannelKind, count: usize) -> Self {
        let mut plan = Self::default();
        for stream in plan.add_streams(channels, kind, count) {
            plan.subscribe([stream]);
        }
        plan
    }
}

/// The user of a connection, by its number.
pub(crate) fn user(number: usize) -> String {
    format!("bench-{number}")
}

/// Determines which streams are due.
#[derive(Debug)]
pub(crate) enum StreamPacer {
    Window { deliveries: u64, next: u32, streams: u32 },
    Rates(Vec<StreamTicker>),
}

#[derive(Debug)]
pub(crate) struct StreamTicker {
    streams: Range<u32>,
    next: u32,
    interval_ns: u64,
    due_ns: u64,
}

impl StreamPacer {
    pub(crate) fn new(pace: &PublishRate, streams: usize, now_ns: u64) -> Self {
        match pace {
            PublishRate::Window(deliveries) => {
                Self::Window { deliveries: *deliveries, next: 0, streams: streams as u32 }
            }
            PublishRate::Rates(rates) => Self::Rates(
                rates
                    .iter()
                    .map(|rate| StreamTicker {
                        streams: rate.streams.clone(),
                        next: rate.streams.start,
                        interval_ns: (1e9 / rate.per_second) as u64,
                        due_ns: now_ns,
                    })
                    .collect(),
            ),
        }
    }

    /// A stream to publish to now, if one is due with `under_way` deliveries outstanding.
    pub(crate) fn due(&mut self, now_ns: u64, under_way: u64) -> Option<u32> {
        let (streams, next) = match self {
            Self::Window { deliveries, .. } if under_way >= *deliveries => return None,
            Self::Window { next, streams, .. } => (0..*streams, next),
            Self::Rates(tickers) => {
                let ticker = tickers.iter_mut().find(|ticker| ticker.due_ns <= now_ns)?;
                ticker.due_ns += ticker.interval_ns;
                (ticker.streams.clone(), &mut ticker.next)
            }
        };
        let stream = *next;
        *next = if stream + 1 >= streams.end { streams.start } else { stream + 1 };
        Some(stream)
    }

    /// The latest time at which the next stream is due; `None` if that depends only on deliveries.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        match self {
            Self::Window { .. } => None,
            Self::Rates(tickers) => tickers.iter().map(|ticker| ticker.due_ns).min(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_cycle_through_their_streams_at_their_own_times() {
        let pace = PublishRate::Rates(vec![
            TotalRate { streams: 0..2, per_second: 1000.0 },
            TotalRate { streams: 2..3, per_second: 500.0 },
        ]);
        let mut pacer = StreamPacer::new(&pace, 3, 0);
        let mut due = |now_ms: u64| std::iter::from_fn(|| pacer.due(now_ms * 1_000_000, 0)).collect::<Vec<_>>();
        assert_eq!(due(0), [0, 2]);
        assert!(due(0).is_empty());
        assert_eq!(due(1), [1]);
        assert_eq!(due(4), [0, 1, 0, 2, 2]);
        assert_eq!(pacer.next_ns(), Some(5_000_000));
    }

    #[test]
    fn a_window_is_filled_and_waits_for_deliveries() {
        let mut pacer = StreamPacer::new(&PublishRate::Window(10), 2, 0);
        assert_eq!(
            [pacer.due(0, 0), pacer.due(0, 9), pacer.due(0, 9), pacer.due(0, 10)],
            [Some(0), Some(1), Some(0), None]
        );
    }
}
