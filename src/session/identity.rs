//! The identity of a session: a user with a token, or a producer with a key. Never decides what that allows.

use std::sync::Arc;

use tickgate_wire::code::ErrorCode;

use super::{MessageFault, Session};
use crate::{
    auth::{ApiKey, TokenIdentity},
    config::TokenRule,
};

/// The identity of a session, once known.
#[derive(Debug)]
pub(super) enum SessionIdentity {
    User(TokenIdentity),
    Key(Arc<ApiKey>),
}

impl Session {
    /// The verified token; `None` until the client is known, and for anonymous clients.
    #[must_use]
    pub fn identity(&self) -> Option<&TokenIdentity> {
        match self.speaker.as_deref() {
            Some(SessionIdentity::User(identity)) => Some(identity),
            _ => None,
        }
    }

    /// Whether a token in a message is acceptable: the first one of a connection that requires one, or a refresh.
    ///
    /// # Errors
    /// [`MessageFault`] if the connection is permanently anonymous, or the token names another user.
    pub fn may_identify(&self, identity: &TokenIdentity) -> Result<(), MessageFault> {
        match self.identity() {
            Some(known) if known.user != identity.user => {
                Err(MessageFault::new(ErrorCode::Forbidden, "a session cannot change its user; open a new connection"))
            }
            None if self.profile.token != TokenRule::Required => {
                let message = "this connection is anonymous; open a new one with the token";
                Err(MessageFault::new(ErrorCode::Forbidden, message))
            }
            _ => Ok(()),
        }
    }

    /// Sets or refreshes the identity.
    pub fn identify(&mut self, identity: TokenIdentity) {
        self.speaker = Some(Box::new(SessionIdentity::User(identity)));
    }

    /// Records the key that admitted the producer.
    pub fn admit_key(&mut self, key: Arc<ApiKey>) {
        self.speaker = Some(Box::new(SessionIdentity::Key(key)));
    }

    /// The key that admitted the producer.
    #[must_use]
    pub fn key(&self) -> Option<&ApiKey> {
        match self.speaker.as_deref() {
            Some(SessionIdentity::Key(key)) => Some(key),
            _ => None,
        }
    }
}
