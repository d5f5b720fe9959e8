//! How the registry ends connections: the codes, and the words. Never decides which.

use tickgate_wire::{code::CloseCode, model::SessionId};

use super::Control;

/// Close code of a session that continues elsewhere, or whose slot another connection took.
pub(super) const SUPERSEDED: u16 = CloseCode::Superseded.number();
/// Close code of a connection that was counted only when its user had enough of them already.
pub(super) const TOO_MANY: u16 = CloseCode::TooManyConnections.number();
pub(super) const TOO_MANY_REASON: &str = "the user has enough connections that are older";
/// Close code of a user whose tokens were revoked.
pub(super) const USER_INACTIVE: u16 = CloseCode::UserInactive.number();
pub(super) const REVOKED_REASON: &str = "the user's tokens were revoked";
pub(super) const INACTIVE_REASON: &str = "the user is not active";

/// Tells a connection to close because another one took its place.
pub(super) fn superseded(session: SessionId) -> Control {
    let reason = "another connection took this one's place".into();
    Control::Close { session: session.to_string(), code: SUPERSEDED, reason }
}

/// Tells a connection to close because its user's tokens were revoked.
pub(super) fn revoked(session: SessionId) -> Control {
    Control::Close { session: session.to_string(), code: USER_INACTIVE, reason: REVOKED_REASON.into() }
}

/// Tells a connection to close because its user is inactive.
pub(super) fn inactive(session: SessionId) -> Control {
    Control::Close { session: session.to_string(), code: USER_INACTIVE, reason: INACTIVE_REASON.into() }
}

/// Tells a connection to close because it was one too many.
pub(super) fn too_many(session: SessionId) -> Control {
    Control::Close { session: session.to_string(), code: TOO_MANY, reason: TOO_MANY_REASON.into() }
}
