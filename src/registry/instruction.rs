//! Instructions between replicas. Never carries one out.

use serde::{Deserialize, Serialize};

/// An instruction from one replica to another, or to all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum ControlInstruction {
    /// Close this session's connection with the code.
    Close {
        /// The session's id.
        session: String,
        /// The close code.
        code: u16,
        /// The text of the Close frame.
        reason: String,
    },
    /// Close all connections of the user with the code.
    CloseUser {
        /// The user.
        user: String,
        /// The close code.
        code: u16,
        /// The text of the Close frame.
        reason: String,
    },
}
