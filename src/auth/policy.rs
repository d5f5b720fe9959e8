//! What an identity may do. Pure: no clock, no I/O.

use std::sync::Arc;

use tickgate_wire::model::{IssuedAt, Pattern, UserId};

/// The identity in a verified token.
#[derive(Clone, Debug)]
pub struct TokenIdentity {
    /// The user, from `auth.user_claim`.
    pub user: UserId,
    /// Expiry of the token, in seconds since 1970.
    pub expires_at: u64,
    /// When the token was issued, if it contains that time.
    pub issued_at: Option<IssuedAt>,
    /// What the token allows. Shared by the connections that use it.
    pub rights: Arc<Rights>,
}

/// The claims that narrow or extend what a token allows (the wire contract, section 6).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rights {
    /// `channels`: the only channels that may be subscribed; absent: all channels of the endpoint except restricted
    /// ones.
    pub channels: Option<Vec<Pattern>>,
    /// `publish`: topics that may be published to; absent: none.
    pub publish: Vec<Pattern>,
    /// `commands`: whether commands may be sent to runs.
    pub commands: bool,
    /// `runs`: values of a path's parameter whose channels may be subscribed, and to which commands may be sent. The
    /// default for an absent claim depends on the endpoint.
    pub runs: Option<Vec<Pattern>>,
}

impl Rights {
    /// Whether a channel of the endpoint may be subscribed. Restricted channels require a claim that names them, in
    /// full or in part: `*` covers only ordinary channels.
    #[must_use]
    pub fn may_subscribe(&self, channel: &str, restricted: bool) -> bool {
        let names = |pattern: &Pattern| (!restricted || pattern.has_fixed_part()) && pattern.matches(channel);
        match &self.channels {
            Some(patterns) => patterns.iter().any(names),
            None => !restricted,
        }
    }

    /// Whether the topic may be published to.
    #[must_use]
    pub fn may_publish(&self, topic: &str) -> bool {
        self.publish.iter().any(|pattern| pattern.matches(topic))
    }

    /// Whether the claim `runs` allows a run; `otherwise` if the token has no such claim.
    #[must_use]
    pub fn may_reach(&self, run: &str, otherwise: bool) -> bool {
        self.runs.as_ref().map_or(otherwise, |patterns| patterns.iter().any(|pattern| pattern.matches(run)))
    }
}
