//! What replicas send each other over the control channels.

use serde::{Deserialize, Serialize};

use crate::registry::{Control, presence::Audience};

/// What goes over the control channels.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ChannelMessage {
    #[serde(rename = "told")]
    Control(ControlMessage),
    Ask(PresenceQuestion),
    Answer(PresenceAnswer),
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
