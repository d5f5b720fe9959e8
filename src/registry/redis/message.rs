//! The messages that replicas send each other over the control channels.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::registry::{ControlInstruction, Inquiry, ReplicaAnswer, presence::TopicAudience};

/// How long, and at least how many messages are stored: a replica whose link was down for longer was not ready.
pub(super) const KEPT: Duration = Duration::from_secs(600);
pub(super) const KEPT_MIN: usize = 10_000;
/// The fields of stored messages: operator commands, revocations, standings, and the stamp of each.
pub(super) const WORD: &str = "c";
pub(super) const REVOKED: &str = "r";
pub(super) const STANDING: &str = "i";
pub(super) const SENT: &str = "s";

/// A message on the control channels.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ChannelMessage {
    #[serde(rename = "told")]
    Control(ControlMessage),
    Revoked(RevokedMessage),
    Standing(StandingMessage),
    Ask(PresenceQuestion),
    Answer(PresenceAnswer),
    Inquire(InquiryQuestion),
    Answered(InquiryAnswer),
}

impl ChannelMessage {
    pub(super) fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A control message in transit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ControlMessage {
    pub(super) control: ControlInstruction,
    /// If set, the message applies only to the connection with this stamp, not to a newer one of the same session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stamp: Option<u64>,
    /// The stamp of an operator's message: connections opened after it was received have greater stamps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sent: Option<u64>,
}

/// A user's tokens were revoked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RevokedMessage {
    pub(super) user: String,
    /// Tokens issued not later than this, in milliseconds since 1970.
    pub(super) at_ms: u64,
    pub(super) until_ms: u64,
    /// Its stamp: connections with smaller stamps were open before.
    pub(super) sent: u64,
}

/// Whether a user is active.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StandingMessage {
    pub(super) user: String,
    pub(super) inactive: bool,
    pub(super) until_ms: u64,
    /// Its stamp: the last report applies.
    pub(super) sent: u64,
}

/// A question to all replicas about the subscribers of these topics.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PresenceQuestion {
    pub(super) number: u64,
    /// The asking replica.
    pub(super) replica: String,
    pub(super) topics: Vec<String>,
}

/// One replica's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PresenceAnswer {
    pub(super) number: u64,
    /// In the order of the topics.
    pub(super) audiences: Vec<TopicAudience>,
}

/// A question to all replicas about their connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct InquiryQuestion {
    pub(super) number: u64,
    /// The asking replica.
    pub(super) replica: String,
    pub(super) inquiry: Inquiry,
}

/// One replica's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct InquiryAnswer {
    pub(super) number: u64,
    pub(super) answer: ReplicaAnswer,
}
