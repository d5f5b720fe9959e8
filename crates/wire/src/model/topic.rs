//! Topic names: the public grammar, and the private topics of a user, which clients cannot spell.

use std::{borrow::Borrow, fmt, sync::Arc};

use thiserror::Error;

use super::{UserId, ids::is_shapeless};

/// The name of a topic. Cheap to clone.
///
/// Public topics have names of the [public grammar](check_name), for example `ticker:BTCUSDT`. A user's private topics
/// start with `@`, which the public grammar excludes: `@@alice` is alice's stream of all reliable private channels,
/// `@portfolio@alice` her private channel `portfolio` if that has its own stream.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

/// Why the name of a topic or channel is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidName {
    /// It has no characters.
    #[error("not a name: it is empty")]
    Empty,
    /// It has this many bytes, more than [`Topic::LEN_MAX`].
    #[error("not a name: it has {0} bytes, and {max} are allowed", max = Topic::LEN_MAX)]
    TooLong(usize),
    /// It contains this character, which names exclude.
    #[error("not a name: it contains {}", Shown(*.0))]
    Character(char),
    /// It starts or ends with a space.
    #[error("not a name: it begins or ends with a space")]
    OuterSpace,
    /// `.` or `..`
    #[error("not a name: as part of a URL, `.` and `..` mean something else")]
    Dots,
}

/// A character in a form that a message can show.
struct Shown(char);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_ascii_graphic() { write!(f, "`{}`", self.0) } else { write!(f, "U+{:04X}", u32::from(self.0)) }
    }
}

/// Printable ASCII characters that names exclude, because they have a special meaning somewhere: in JSON and logs (`"`
/// and `\`), in lists (`,`), in patterns (`*`), in Redis keys, URLs and templates (`{`, `}` and `%`), and in the names
/// of private topics (`@`).
pub const RESERVED: [char; 8] = ['"', '%', '*', ',', '@', '\\', '{', '}'];

/// Validates the name of a topic or channel against the public grammar: 1 to 200 bytes of UTF-8, without control
/// characters, [`RESERVED`] ones, invisible characters, and white space other than U+0020 between other characters; not
/// `.` or `..`. Names are compared byte by byte.
///
/// # Errors
/// [`InvalidName`] with the first character that is not allowed.
pub fn check_name(name: &str) -> Result<(), InvalidName> {
    if name.is_empty() {
        return Err(InvalidName::Empty);
    }
    if name.len() > Topic::LEN_MAX {
        return Err(InvalidName::TooLong(name.len()));
    }
    if let Some(character) = name.chars().find(|c| !is_allowed(*c)) {
        return Err(InvalidName::Character(character));
    }
    if name.starts_with(' ') || name.ends_with(' ') {
        return Err(InvalidName::OuterSpace);
    }
    if name == "." || name == ".." {
        return Err(InvalidName::Dots);
    }
    Ok(())
}

fn is_allowed(c: char) -> bool {
    if c.is_ascii() {
        return matches!(c, ' '..='~') && !RESERVED.contains(&c);
    }
    !c.is_control() && !c.is_whitespace() && !is_shapeless(c)
}

impl Topic {
    /// Maximum length of a public name, in bytes.
    pub const LEN_MAX: usize = 200;

    /// A public topic.
    ///
    /// # Errors
    /// [`InvalidName`] if the name violates the grammar.
    pub fn public(name: &str) -> Result<Self, InvalidName> {
        check_name(name)?;
        Ok(Self(name.into()))
    }

    /// The stream that holds all reliable private channels of a user.
    #[must_use]
    pub fn user_stream(user: &UserId) -> Self {
        Self(format!("@@{user}").into())
    }

    /// A private channel with its own stream (classes `state` and `event`).
    #[must_use]
    pub fn private(user: &UserId, channel: &str) -> Self {
        Self(format!("@{channel}@{user}").into())
    }

    /// The label under which the subscribers of one channel are counted: a user's stream holds several channels.
    #[must_use]
    pub fn audience(&self, channel: &str) -> Self {
        match self.0.strip_prefix("@@") {
            Some(user) => Self(format!("@{channel}@{user}").into()),
            None => self.clone(),
        }
    }

    /// A private or public name received from the backplane.
    #[must_use]
    pub fn from_wire(name: &str) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as shared text.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }

    /// The owner of a private topic.
    #[must_use]
    pub fn owner(&self) -> Option<&str> {
        let rest = self.0.strip_prefix('@')?;
        rest.split_once('@').map(|(_, user)| user)
    }

    /// What metrics and logs may show: the part before the first `:` of a public name, `private` otherwise.
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
    fn names_of_real_venues_are_valid() {
        let listed = [
            "ticker:BTCUSDT",
            "ES=F",
            "^GSPC",
            "BRK B",
            "M&M.NS",
            "EUR/USD",
            "7203.T",
            "C:EURUSD",
            "$SPX",
            "BTC-31DEC26!",
            "run:a/b-c_d.e",
        ];
        // Letters and digits of any script, and the combining marks that many scripts require.
        let written = ["ticker:비트코인", "купить", "كهرماء", "हिन्दी", "株式", "١٢٣", "e\u{301}", "é", "𝔸", "₿"];
        for name in
            listed.into_iter().chain(written).chain(["x", "...", "a.b", "a  b", &"x".repeat(200), &"é".repeat(100)])
        {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        assert_ne!(Topic::public("é"), Topic::public("e\u{301}"), "names are compared as bytes");
    }

    #[test]
    fn every_letter_and_digit_is_allowed_in_a_name() {
        for c in ('\0'..=char::MAX).filter(|c| c.is_alphanumeric()) {
            assert_eq!(check_name(c.encode_utf8(&mut [0; 4])), Ok(()), "{}", c.escape_unicode());
        }
    }

    #[test]
    fn the_reason_of_a_refusal_is_named() {
        for c in RESERVED {
            assert_eq!(
                check_name(&format!("a{c}b")).unwrap_err().to_string(),
                format!("not a name: it contains `{c}`")
            );
        }
        for (c, shown) in [
            ('\0', "U+0000"),
            ('\n', "U+000A"),
            ('\u{7f}', "U+007F"),
            ('\u{85}', "U+0085"),
            ('\u{a0}', "U+00A0"),
            ('\u{200b}', "U+200B"),
            ('\u{202e}', "U+202E"),
            ('\u{2028}', "U+2028"),
            ('\u{3000}', "U+3000"),
            ('\u{e0041}', "U+E0041"),
        ] {
            assert_eq!(
                check_name(&format!("a{c}")).unwrap_err().to_string(),
                format!("not a name: it contains {shown}")
            );
        }
        let others = [
            ("", "it is empty"),
            (&*"x".repeat(201), "it has 201 bytes, and 200 are allowed"),
            (&*"é".repeat(101), "it has 202 bytes, and 200 are allowed"),
            (" a", "it begins or ends with a space"),
            ("a ", "it begins or ends with a space"),
            (" ", "it begins or ends with a space"),
            ("..", "as part of a URL, `.` and `..` mean something else"),
        ];
        for (name, says) in others {
            assert_eq!(Topic::public(name).unwrap_err().to_string(), format!("not a name: {says}"), "{name}");
        }
    }

    #[test]
    fn private_topics_know_their_owner_whatever_the_user_id() {
        let odd = UserId::new("a@b}c").unwrap();
        assert_eq!(Topic::user_stream(&odd).owner(), Some("a@b}c"));
        assert_eq!(Topic::private(&odd, "portfolio").owner(), Some("a@b}c"));
        assert_ne!(Topic::private(&UserId::new("b").unwrap(), "a"), Topic::private(&UserId::new("a").unwrap(), "b"));
        assert_eq!(Topic::public("ticker:BTCUSDT").unwrap().owner(), None);
    }

    #[test]
    fn channels_of_a_users_stream_are_counted_separately() {
        let odd = UserId::new("@a@b").unwrap();
        let stream = Topic::user_stream(&odd);
        assert_eq!(stream.audience("orders"), Topic::private(&odd, "orders"));
        assert_ne!(stream.audience("orders"), stream.audience("risk_alerts"));
        for own in [Topic::private(&odd, "portfolio"), Topic::public("logs").unwrap()] {
            assert_eq!(own.audience("portfolio"), own);
        }
    }
}
