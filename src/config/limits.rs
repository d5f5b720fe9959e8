//! Bounds of connections, messages and memory. Each refusal has its own code.

use std::time::Duration;

use tickgate_wire::payload::{PAYLOAD_BYTES_MAX, PAYLOAD_DEPTH_MAX};

use super::{Problems, raw, value::Section};

/// Bounds. Each refusal has its own code.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections of this replica.
    pub connections_max: usize,
    /// Per user, over all replicas; set by `WS_MAX_CONNECTIONS_PER_USER`.
    pub connections_per_user_max: u32,
    /// What happens to a user's connection above `connections_per_user_max`.
    pub over_limit: OverLimit,
    /// Open connections per address on this replica. 0: no limit.
    pub connections_per_address_max: u32,
    /// Handshakes per second and burst, per address.
    pub handshakes_per_address: Rate,
    /// Maximum size of a client's message, in bytes.
    pub message_bytes_max: usize,
    /// Maximum size of an HTTP API body, in bytes.
    pub body_bytes_max: usize,
    /// Maximum size of one publication's payload, in bytes.
    pub payload_bytes_max: usize,
    /// Maximum depth of JSON nesting in publications and in values that clients send.
    pub json_depth_max: usize,
    /// Inbound messages of one connection.
    pub messages_per_connection: Rate,
    /// Inbound messages of one user on this replica.
    pub messages_per_user: Rate,
    /// Rate violations within a minute that close the connection.
    pub rate_offences_max: u32,
    /// Invalid messages within a minute that close the connection.
    pub invalid_messages_max: u32,
    /// Maximum number of subscriptions of one connection.
    pub subscriptions_max: usize,
    /// Messages an outbox holds before the class's policy applies; set by `WS_MESSAGE_QUEUE_SIZE`.
    pub outbox_messages_max: usize,
    /// Maximum number of bytes queued for one socket.
    pub outbox_bytes_max: usize,
    /// Maximum number of entries that one resume fetches from a stream.
    pub replay_entries_max: usize,
    /// Maximum number of bytes that one resume may fetch.
    pub replay_bytes_max: usize,
    /// Bytes read for resumes and histories that wait to be sent to clients: in total, and per address.
    pub replays_bytes_max: usize,
    /// Maximum number of bytes read for the clients of one address and not yet received by them.
    pub replays_per_address_bytes_max: usize,
    /// Bytes read from streams for the clients of one address; above that, they wait.
    pub bytes_read_per_address: Rate,
    /// Whether publications that no client can receive are refused.
    pub refuses_unknown_channels: bool,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// 0: no limit.
    pub per_second: u32,
    /// Number of tokens of a full bucket.
    pub burst: u32,
}

/// What happens to a connection over the user's limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverLimit {
    /// The new one is refused (4003).
    Refuse,
    /// The oldest one is closed (4501).
    EvictOldest,
}

/// Fan-out.
#[derive(Clone, Debug)]
pub struct Hub {
    /// Topics that the replica follows, excluding private channels.
    pub topics_max: usize,
    /// The number of those without any publication, and the number of those per address.
    pub unpublished_topics_max: usize,
    /// Maximum number of followed topics without publications that clients of one address named.
    pub unpublished_per_address_max: usize,
    /// Recent messages kept per followed topic.
    pub ring_messages_max: usize,
    /// Maximum number of bytes of recent messages kept per topic.
    pub ring_bytes_max: usize,
    /// How long a topic is followed after its last subscriber leaves.
    pub linger: Duration,
}

/// Maximum size of any single item that a client or publisher sends, in bytes.
const BYTES_MAX: u64 = 16 << 20;

impl Limits {
    pub(super) fn check(raw: &raw::RawLimits, development: bool, problems: &mut Problems) -> Self {
        let mut section = Section::new("limits", problems);
        let s = &mut section;
        let unknown_channels = [("auto", !development), ("refuse", true), ("accept", false)];
        let over_limit = [("refuse", OverLimit::Refuse), ("evict-oldest", OverLimit::EvictOldest)];
        let limits = Self {
            connections_max: s.number("connections_max", raw.connections_max, 1..=10_000_000),
            connections_per_user_max: s.number("connections_per_user_max", raw.connections_per_user_max, 1..=100_000),
            over_limit: s.choice("over_limit", &raw.over_limit, &over_limit),
            connections_per_address_max: s.number(
                "connections_per_address_max",
                raw.connections_per_address_max,
                0..=10_000_000,
            ),
            handshakes_per_address: Rate::check("handshakes_per_address", &raw.handshakes_per_address, s),
            message_bytes_max: s.number("message_bytes_max", raw.message_bytes_max, 256..=BYTES_MAX),
            body_bytes_max: s.number("body_bytes_max", raw.body_bytes_max, 256..=16 * BYTES_MAX),
            payload_bytes_max: s.number("payload_bytes_max", raw.payload_bytes_max, 256..=PAYLOAD_BYTES_MAX as u64),
            json_depth_max: s.number("json_depth_max", raw.json_depth_max, 2..=PAYLOAD_DEPTH_MAX as u64),
            messages_per_connection: Rate::check("messages_per_connection", &raw.messages_per_connection, s),
            messages_per_user: Rate::check("messages_per_user", &raw.messages_per_user, s),
            rate_offences_max: s.number("rate_offences_max", raw.rate_offences_max, 1..=1_000_000),
            invalid_messages_max: s.number("invalid_messages_max", raw.invalid_messages_max, 1..=1_000_000),
            subscriptions_max: s.number("subscriptions_max", raw.subscriptions_max, 1..=100_000),
            outbox_messages_max: s.number("outbox_messages_max", raw.outbox_messages_max, 1..=1_000_000),
            outbox_bytes_max: s.number("outbox_bytes_max", raw.outbox_bytes_max, 1024..=64 * BYTES_MAX),
            replay_entries_max: s.number("replay_entries_max", raw.replay_entries_max, 1..=10_000_000),
            replay_bytes_max: s.number("replay_bytes_max", raw.replay_bytes_max, 1024..=64 * BYTES_MAX),
            replays_bytes_max: s.number("replays_bytes_max", raw.replays_bytes_max, 1024..=1024 * BYTES_MAX),
            replays_per_address_bytes_max: s.number(
                "replays_per_address_bytes_max",
                raw.replays_per_address_bytes_max,
                1024..=1024 * BYTES_MAX,
            ),
            bytes_read_per_address: Rate::of_bytes("bytes_read_per_address", &raw.bytes_read_per_address, s),
            refuses_unknown_channels: s.choice("unknown_channels", &raw.unknown_channels, &unknown_channels),
        };
        limits.check_fit(s);
        limits
    }

    /// Bounds that contradict each other.
    fn check_fit(&self, section: &mut Section<'_>) {
        for (name, room) in [
            ("body_bytes_max", self.body_bytes_max),
            ("outbox_bytes_max", self.outbox_bytes_max),
            ("replay_bytes_max", self.replay_bytes_max),
        ] {
            if self.payload_bytes_max > room {
                section
                    .report("payload_bytes_max", format!("must not exceed limits.{name} ({room}): it would never fit"));
            }
        }
        for (name, bytes, greater, room) in [
            (
                "replay_bytes_max",
                self.replay_bytes_max,
                "replays_per_address_bytes_max",
                self.replays_per_address_bytes_max,
            ),
            (
                "replays_per_address_bytes_max",
                self.replays_per_address_bytes_max,
                "replays_bytes_max",
                self.replays_bytes_max,
            ),
        ] {
            if bytes > room {
                section.report(name, format!("must not exceed limits.{greater} ({room}): it would never fit"));
            }
        }
        let (connection, user) = (self.messages_per_connection.per_second, self.messages_per_user.per_second);
        if user != 0 && user < connection {
            let text = format!("must be at least limits.messages_per_connection.per_second ({connection})");
            section.report("messages_per_user.per_second", text);
        }
    }
}

impl Rate {
    fn check(key: &str, raw: &raw::RawRate, section: &mut Section<'_>) -> Self {
        Self::within(1_000_000, 10_000_000, (key, raw), section)
    }

    /// More than a gigabyte per second is no limit.
    fn of_bytes(key: &str, raw: &raw::RawRate, section: &mut Section<'_>) -> Self {
        Self::within(1_000_000_000, 4_000_000_000, (key, raw), section)
    }

    fn within(most: u64, burst_max: u64, (key, raw): (&str, &raw::RawRate), section: &mut Section<'_>) -> Self {
        let least = u64::from(raw.per_second > 0);
        Self {
            per_second: section.number(&format!("{key}.per_second"), raw.per_second, 0..=most),
            burst: section.number(&format!("{key}.burst"), raw.burst, least..=burst_max),
        }
    }
}

impl Hub {
    pub(super) fn check(raw: &raw::RawHub, problems: &mut Problems) -> Self {
        let mut section = Section::new("hub", problems);
        Self {
            topics_max: section.number("topics_max", raw.topics_max, 1..=100_000_000),
            unpublished_topics_max: section.number(
                "unpublished_topics_max",
                raw.unpublished_topics_max,
                1..=100_000_000,
            ),
            unpublished_per_address_max: section.number(
                "unpublished_per_address_max",
                raw.unpublished_per_address_max,
                1..=100_000_000,
            ),
            ring_messages_max: section.number("ring_messages_max", raw.ring_messages_max, 1..=100_000),
            ring_bytes_max: section.number("ring_bytes_max", raw.ring_bytes_max, 1024..=4 * BYTES_MAX),
            linger: section.duration("linger", &raw.linger, ["0s", "1h"]),
        }
    }
}
