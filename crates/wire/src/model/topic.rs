//! Topic names: the public grammar, and the private topics of a user that no client can spell.

use std::{borrow::Borrow, fmt, sync::Arc};

use thiserror::Error;

use super::UserId;

/// A name one subscribes to. Cheap to clone.
///
/// Public topics are `[A-Za-z0-9_.:/-]{1,200}`, for example `ticker:BTCUSDT`. A user's private topics begin with
/// `@`, which the public grammar lacks: `@@alice` is alice's stream of all reliable private channels,
/// `@portfolio@alice` her private channel `portfolio` where that has a stream of its own.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

/// A topic or channel name breaks the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a name is 1 to {max} characters of A-Z a-z 0-9 _ . : / -", max = Topic::LEN_MAX)]
pub struct InvalidTopic;

/// Checks a topic or channel name against the public grammar.
///
/// # Errors
/// [`InvalidTopic`] when empty, over 200 bytes, or with a character outside `[A-Za-z0-9_.:/-]`.
pub fn check_name(name: &str) -> Result<(), InvalidTopic> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b':' | b'/' | b'-');
    if name.is_empty() || name.len() > Topic::LEN_MAX || !name.bytes().all(allowed) {
        return Err(InvalidTopic);
    }
    Ok(())
}

impl Topic {
    /// The longest public name, in bytes.
    pub const LEN_MAX: usize = 200;

    /// A public topic.
    ///
    /// # Errors
    /// [`InvalidTopic`] when the name breaks the grammar.
    pub fn public(name: &str) -> Result<Self, InvalidTopic> {
        check_name(name)?;
        Ok(Self(name.into()))
    }

    /// The one stream that holds all reliable private channels of a user.
    #[must_use]
    pub fn user_stream(user: &UserId) -> Self {
        Self(format!("@@{user}").into())
    }

    /// A private channel that has a stream of its own (classes `state` and `event`).
    #[must_use]
    pub fn private(user: &UserId, channel: &str) -> Self {
        Self(format!("@{channel}@{user}").into())
    }

    /// A name that came back from the backplane, private or public.
    #[must_use]
    pub fn from_wire(name: &str) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as text that is kept elsewhere too.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }

    /// The user whose private topic this is.
    #[must_use]
    pub fn owner(&self) -> Option<&str> {
        let rest = self.0.strip_prefix('@')?;
        rest.split_once('@').map(|(_, user)| user)
    }

    /// What a metric or a log may show: the part before the first `:` of a public name, `private` otherwise.
    #[must_use]
    pub fn namespace(&self) -> &str {
        if self.0.starts_with('@') {
            return "private";
        }
        self.0.split(':').next().unwrap_or_default()
    }
}

impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_names_follow_the_grammar() {
        for name in ["ticker:BTCUSDT", "run:a/b-c_d.e", "x"] {
            assert!(Topic::public(name).is_ok(), "{name}");
        }
        for name in ["", "a b", "@@alice", "a\0", "a*", "a{b}", "é", &"x".repeat(201)] {
            assert_eq!(Topic::public(name), Err(InvalidTopic), "{name}");
        }
    }

    #[test]
    fn private_topics_know_their_owner_whatever_the_user_is_called() {
        let odd = UserId::new("a@b}c").unwrap();
        assert_eq!(Topic::user_stream(&odd).owner(), Some("a@b}c"));
        assert_eq!(Topic::private(&odd, "portfolio").owner(), Some("a@b}c"));
        assert_ne!(Topic::private(&UserId::new("b").unwrap(), "a"), Topic::private(&UserId::new("a").unwrap(), "b"));
        assert_eq!(Topic::public("ticker:BTCUSDT").unwrap().owner(), None);
    }
}
