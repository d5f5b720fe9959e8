//! Names of things that live in Redis and on the wire. Each is checked once, where it enters.

use std::{fmt, sync::Arc};

use thiserror::Error;
use uuid::{Builder, Uuid};

/// A name is empty, too long, or holds characters that are not allowed in it.
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

/// Characters without a shape of their own (Unicode 16, category Cf, and the two separators of lines and paragraphs): zero
/// width, direction, tags. Two names that differ only in them look the same in every log and console.
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
    // Variation selectors: not of that category, and just as invisible.
    (0xE0100, 0xE01EF),
];

/// Whether nobody sees the character.
pub(super) fn is_shapeless(c: char) -> bool {
    SHAPELESS.iter().any(|(first, last)| (*first..=*last).contains(&u32::from(c)))
}

/// Who a token speaks for: its `sub`, or `user_id` where a token has no `sub`. 1 to 128 bytes, without control characters
/// and characters that nobody sees.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

/// A publisher's own id of a message, by which a retry is recognised. 1 to 128 bytes, no control characters.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MsgId(Arc<str>);

/// One gateway process; drawn anew at each start, so a restarted process never owns the sessions of its past.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ReplicaId(Arc<str>);

/// A client's session, stable across its reconnects: a digest of the secret that its client knows.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(Uuid);

/// What a client is told of its session: who has it, and a token of the user, takes the session over. Never stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionSecret(Uuid);

impl UserId {
    /// Checks and takes a user's name.
    ///
    /// # Errors
    /// [`InvalidId`] when empty, over 128 bytes, or with control or format characters.
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        let id = checked("a user id", text, 128)?;
        if !id.is_ascii() && id.chars().any(is_shapeless) {
            return Err(InvalidId { what: "a user id", max: 128, without: "invisible characters" });
        }
        Ok(Self(id))
    }
}

impl MsgId {
    /// Checks and takes a publisher's message id.
    ///
    /// # Errors
    /// [`InvalidId`] when empty, over 128 bytes, or with control characters.
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        checked("a msg_id", text, 128).map(Self)
    }
}

impl ReplicaId {
    /// A fresh name of 12 hexadecimal digits.
    #[must_use]
    pub fn random() -> Self {
        let text = Uuid::new_v4().simple().to_string();
        Self(text[..12].into())
    }

    /// A name read back from Redis.
    ///
    /// # Errors
    /// [`InvalidId`] when empty, over 64 bytes, or with control characters.
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        checked("a replica id", text, 64).map(Self)
    }
}

impl SessionSecret {
    /// A fresh one: 122 random bits.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// Reads the wire form (a UUID).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// What its digest is made of.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl SessionId {
    /// A session that no client has the secret of.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The session of a secret with this digest.
    #[must_use]
    pub const fn of_digest(digest: [u8; 16]) -> Self {
        Self(Builder::from_custom_bytes(digest).into_uuid())
    }

    /// A byte that spreads sessions evenly over parts of a table.
    #[must_use]
    pub fn low_byte(self) -> u8 {
        self.0.as_bytes()[15]
    }

    /// Reads the wire form (a UUID).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// Without hyphens, which [`SessionId::parse`] takes as well: 32 bytes.
    pub fn compact(&self) -> impl fmt::Display + use<> {
        self.0.simple()
    }
}

macro_rules! text_id {
    ($($name:ident),*) => {$(
        impl $name {
            /// The name as text.
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
    fn no_two_users_look_the_same_for_what_nobody_sees() {
        for name in ["émilie", "김철수", "محمد", "o\u{2019}brien", "👩"] {
            assert!(UserId::new(name).is_ok(), "{name}");
        }
        for hidden in ["\u{200b}", "\u{200d}", "\u{202e}", "\u{2066}", "\u{ad}", "\u{feff}", "\u{2028}", "\u{e0041}"] {
            assert!(UserId::new(&format!("ali{hidden}ce")).is_err(), "{}", hidden.escape_unicode());
        }
        assert!(MsgId::new("a\u{200d}b").is_ok(), "nobody is taken for somebody else by a message id");
    }

    #[test]
    fn a_session_does_not_show_itself_in_logs() {
        let session = SessionId::random();
        assert!(!format!("{session:?}").contains(&session.to_string()[9..]));
        assert_eq!(SessionId::parse(&session.to_string()), Some(session));
        let secret = SessionSecret::random();
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(SessionSecret::parse(&secret.to_string()), Some(secret));
    }
}
