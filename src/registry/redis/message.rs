//! What replicas send each other over the control channels.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::registry::{Answer, Control, Inquiry, presence::Audience};

/// How long, and at least how many are kept: a link that was down for longer is that of a replica that was not ready.
pub(super) const KEPT: Duration = Duration::from_secs(600);
pub(super) const KEPT_MIN: usize = 10_000;
/// The field of an operator's word in what is kept, of a revocation, of a user's standing, and of when each was sent.
pub(super) const WORD: &str = "c";
pub(super) const REVOKED: &str = "r";
pub(super) const STANDING: &str = "i";
pub(super) const SENT: &str = "s";

/// What goes over the control channels.
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

/// A control message under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ControlMessage {
    pub(super) control: Control,
    /// Only the connection of this stamp is meant, not a newer one of the same session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stamp: Option<u64>,
    /// Its place in the order, where it is an operator's: connections that are opened after it was heard have greater
    /// stamps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sent: Option<u64>,
}

/// A user's tokens were revoked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RevokedMessage {
    pub(super) user: String,
    /// Those that were issued at this time or before, in milliseconds since 1970.
    pub(super) at_ms: u64,
    pub(super) until_ms: u64,
    /// Its place in the order: connections with smaller stamps were there before.
    pub(super) sent: u64,
}

/// Whether a user is active.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StandingMessage {
    pub(super) user: String,
    pub(super) inactive: bool,
    pub(super) until_ms: u64,
    /// Its place in the order: the last word counts.
    pub(super) sent: u64,
}

/// A question to all replicas: who follows these topics?
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PresenceQuestion {
    pub(super) number: u64,
    /// Who asks.
    pub(super) replica: String,
    pub(super) topics: Vec<String>,
}

/// One replica's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PresenceAnswer {
    pub(super) number: u64,
    /// In the order of the topics.
    pub(super) audiences: Vec<Audience>,
}

/// A question to all replicas about their connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct InquiryQuestion {
    pub(super) number: u64,
    /// Who asks.
    pub(super) replica: String,
    pub(super) inquiry: Inquiry,
}

/// One replica's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct InquiryAnswer {
    pub(super) number: u64,
    pub(super) answer: Answer,
}
