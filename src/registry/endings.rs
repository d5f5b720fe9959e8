//! The close codes and reasons with which the registry closes connections. Never decides which.

use tickgate_wire::{code::CloseCode, model::SessionId};

use super::ControlInstruction;

/// Close code of a session that continues elsewhere, or whose place another connection took.
pub(super) const SUPERSEDED: u16 = CloseCode::Superseded.number();
/// Close code of a connection that was counted when its user was already at the limit.
pub(super) const TOO_MANY: u16 = CloseCode::TooManyConnections.number();
pub(super) const TOO_MANY_REASON: &str = "the user has too many older connections";
/// Close code of a user whose tokens were revoked.
pub(super) const USER_INACTIVE: u16 = CloseCode::UserInactive.number();
pub(super) const REVOKED_REASON: &str = "the user's tokens were revoked";
pub(super) const INACTIVE_REASON: &str = "the user is not active";

/// Closes a connection because another one took its place.
pub(super) fn superseded(session: SessionId) -> ControlInstruction {
    let reason = "another connection took this one's place".into();
    ControlInstruction::Close { session: session.to_string(), code: SUPERSEDED, reason }
}

/// Closes a connection because its user's tokens were revoked.
pub(super) fn revoked(session: SessionId) -> ControlInstruction {
    ControlInstruction::Close { session: session.to_string(), code: USER_INACTIVE, reason: REVOKED_REASON.into() }
}

/// Closes a connection because its user is inactive.
pub(super) fn inactive(session: SessionId) -> ControlInstruction {
    ControlInstruction::Close { session: session.to_string(), code: USER_INACTIVE, reason: INACTIVE_REASON.into() }
}

/// Closes a connection because its user is over the limit.
pub(super) fn too_many(session: SessionId) -> ControlInstruction {
    ControlInstruction::Close { session: session.to_string(), code: TOO_MANY, reason: TOO_MANY_REASON.into() }
}
