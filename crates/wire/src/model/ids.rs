//! Ids of users, messages, replicas and sessions. Each is validated once, at the entry point.

use std::{fmt, sync::Arc};

use thiserror::Error;
use uuid::{Builder, Uuid};

/// An id is empty, too long, or contains forbidden characters.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what} must be 1 to {max} bytes without {without}")]
pub struct InvalidId {
    what: &'static str,
    max: usize,
    without: &'static str,
}

fn checked(what: &'static str, text: &str, max: usize) -> Result<Arc<str>, InvalidId> {
    if text.is_empty() || text.len() > max || text.chars().any(char::is_control) {
        return Err(InvalidId { what, max, without: "control characters" });
    }
    Ok(text.into())
}

/// Invisible characters (Unicode 16, category Cf, and the line and paragraph separators): zero width, direction, tags.
/// Two names that differ only in these look the same in every log and console.
const SHAPELESS: [(u32, u32); 22] = [
    (0x00AD, 0x00AD),
    (0x0600, 0x0605),
    (0x061C, 0x061C),
    (0x06DD, 0x06DD),
    (0x070F, 0x070F),
    (0x0890, 0x0891),
    (0x08E2, 0x08E2),
    (0x180E, 0x180E),
    (0x200B, 0x200F),
    (0x2028, 0x202E),
    (0x2060, 0x2064),
    (0x2066, 0x206F),
    (0xFEFF, 0xFEFF),
    (0xFFF9, 0xFFFB),
    (0x110BD, 0x110BD),
    (0x110CD, 0x110CD),
    (0x13430, 0x1343F),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0001, 0xE0001),
    (0xE0020, 0xE007F),
    // Variation selectors: not in that category, but invisible as well.
    (0xE0100, 0xE01EF),
];

/// Whether the character is invisible.
pub(super) fn is_shapeless(c: char) -> bool {
    SHAPELESS.iter().any(|(first, last)| (*first..=*last).contains(&u32::from(c)))
}

/// The user of a token: its `sub`, or `user_id` if the token has no `sub`. 1 to 128 bytes, without control and
/// invisible characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

/// A publisher's own id of a message, which identifies a retry. 1 to 128 bytes, no control characters.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MsgId(Arc<str>);

/// One gateway process; random at each start, so that a restarted process never owns its earlier sessions.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ReplicaId(Arc<str>);

/// A client's session, stable across its reconnects: a digest of the secret that its client has.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(Uuid);

/// The client's secret of its session: together with a token of the user, it takes over the session. Never stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionSecret(Uuid);

impl UserId {
    /// Validates a user id.
    ///
    /// # Errors
    /// [`InvalidId`] if it is empty, over 128 bytes, or contains control or invisible characters.
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        let id = checked("a user id", text, 128)?;
        if !id.is_ascii() && id.chars().any(is_shapeless) {
            return Err(InvalidId { what: "a user id", max: 128, without: "invisible characters" });
        }
        Ok(Self(id))
    }
}

impl MsgId {
    /// Validates a publisher's message id.
    ///
    /// # Errors
    /// [`InvalidId`] if it is empty, over 128 bytes, or contains control characters.
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        checked("a msg_id", text, 128).map(Self)
    }
}

impl ReplicaId {
    /// A new random id of 12 hexadecimal digits.
    #[must_use]
    pub fn random() -> Self {
        let text = Uuid::new_v4().simple().to_string();
        Self(text[..12].into())
    }

    /// Validates an id that was read from Redis.
    ///
    /// # Errors
    /// [`InvalidId`] if it is empty, over 64 bytes, or contains control characters.
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        checked("a replica id", text, 64).map(Self)
    }
}

impl SessionSecret {
    /// A new secret of 122 random bits.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// Parses the wire form (a UUID).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// The input of the digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl SessionId {
    /// A session whose secret no client has.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The session of a secret with this digest.
    #[must_use]
    pub const fn of_digest(digest: [u8; 16]) -> Self {
        Self(Builder::from_custom_bytes(digest).into_uuid())
    }

    /// A byte that distributes sessions evenly over parts of a table.
    #[must_use]
    pub fn low_byte(self) -> u8 {
        self.0.as_bytes()[15]
    }

    /// Parses the wire form (a UUID).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// Without hyphens, which [`SessionId::parse`] accepts as well: 32 bytes.
    pub fn compact(&self) -> impl fmt::Display + use<> {
        self.0.simple()
    }
}

macro_rules! text_id {
    ($($name:ident),*) => {$(
        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    )*};
}
text_id!(UserId, MsgId, ReplicaId);

macro_rules! uuid_id {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                Self::parse(&text).ok_or_else(|| serde::de::Error::custom("a session is a UUID"))
            }
        }
    )*};
}
uuid_id!(SessionId, SessionSecret);

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Only the first digits: enough to follow a session in a log.
impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", &self.0.simple().to_string()[..8])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_printable() {
        assert!(UserId::new("auth0|alice@example.com").is_ok());
        assert!(UserId::new("").is_err());
        assert!(UserId::new("a\0b").is_err());
        assert!(UserId::new(&"x".repeat(129)).is_err());
    }

    #[test]
    fn users_that_look_the_same_are_the_same() {
        for name in ["émilie", "김철수", "محمد", "o\u{2019}brien", "👩"] {
            assert!(UserId::new(name).is_ok(), "{name}");
        }
        for hidden in ["\u{200b}", "\u{200d}", "\u{202e}", "\u{2066}", "\u{ad}", "\u{feff}", "\u{2028}", "\u{e0041}"] {
            assert!(UserId::new(&format!("ali{hidden}ce")).is_err(), "{}", hidden.escape_unicode());
        }
        assert!(MsgId::new("a\u{200d}b").is_ok(), "message ids may contain invisible characters");
    }

    #[test]
    fn a_session_is_never_shown_in_logs() {
        let session = SessionId::random();
        assert!(!format!("{session:?}").contains(&session.to_string()[9..]));
        assert_eq!(SessionId::parse(&session.to_string()), Some(session));
        let secret = SessionSecret::random();
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(SessionSecret::parse(&secret.to_string()), Some(secret));
    }
}
