//! On whose behalf a session speaks: a user with a token, or a producer with a key. Never decides what that allows.

use std::sync::Arc;

use tickgate_wire::code::ErrorCode;

use super::{Fault, Session};
use crate::{
    auth::{ApiKey, Identity},
    config::TokenRule,
};

/// On whose behalf a session speaks, once that is known.
#[derive(Debug)]
pub(super) enum Speaker {
    User(Identity),
    Key(Arc<ApiKey>),
}

impl Session {
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        match self.speaker.as_deref() {
            Some(Speaker::User(identity)) => Some(identity),
            _ => None,
        }
    }

    /// Whether a token that came in a message may be taken: the first one of a connection that needs one, or a refresh.
    ///
    /// # Errors
    /// [`Fault`] when the connection is anonymous for good, or the token names another user than its own.
    pub fn may_identify(&self, identity: &Identity) -> Result<(), Fault> {
        match self.identity() {
            Some(known) if known.user != identity.user => {
                Err(Fault::new(ErrorCode::Forbidden, "a session can't change its user; open a new connection"))
            }
            None if self.profile.token != TokenRule::Required => {
                let message = "this connection is anonymous; open a new one with the token";
                Err(Fault::new(ErrorCode::Forbidden, message))
            }
            _ => Ok(()),
        }
    }

    /// Takes an identity, or its refresh.
    pub fn identify(&mut self, identity: Identity) {
        self.speaker = Some(Box::new(Speaker::User(identity)));
    }

    /// The producer was admitted by this key.
    pub fn admit_key(&mut self, key: Arc<ApiKey>) {
        self.speaker = Some(Box::new(Speaker::Key(key)));
    }

    /// The key that the producer was admitted by.
    #[must_use]
    pub fn key(&self) -> Option<&ApiKey> {
        match self.speaker.as_deref() {
            Some(Speaker::Key(key)) => Some(key),
            _ => None,
        }
    }
}
