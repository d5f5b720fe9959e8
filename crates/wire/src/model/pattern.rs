//! Patterns over names: `*` stands for any run of characters. Used only in configuration and token claims; never passed
//! to Redis, whose pattern subscriptions slow down every publish.

use thiserror::Error;

use super::{InvalidName, check_name};

/// A name, or a name that contains `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Box<str>);

/// Why a pattern is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidPattern {
    /// It contains more than four stars.
    #[error("a pattern has at most {STARS_MAX} `*`")]
    Stars,
    /// With a letter in place of each `*`, it is not a name.
    #[error("a pattern is a name that may contain `*`, and this is {0}")]
    Name(InvalidName),
}

/// Maximum number of stars in one pattern.
const STARS_MAX: usize = 4;

impl Pattern {
    /// Validates a pattern.
    ///
    /// # Errors
    /// [`InvalidPattern`] if it contains more than 4 `*`, or cannot match any name.
    pub fn new(text: &str) -> Result<Self, InvalidPattern> {
        if text.bytes().filter(|b| *b == b'*').count() > STARS_MAX {
            return Err(InvalidPattern::Stars);
        }
        check_name(&text.replace('*', "x")).map_err(InvalidPattern::Name)?;
        Ok(Self(text.into()))
    }

    /// Whether the whole name matches. The four stars bound the time: no exponential backtracking.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for middle in parts {
            let Some(at) = rest.find(middle) else { return false };
            rest = &rest[at + middle.len()..];
        }
        rest.ends_with(last)
    }

    /// Whether it contains more than stars.
    #[must_use]
    pub fn has_fixed_part(&self) -> bool {
        self.0.bytes().any(|b| b != b'*')
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_any_run() {
        let hits =
            [("*", "x"), ("ticker:*", "ticker:BTC"), ("a*c", "abc"), ("a*c", "ac"), ("a*b*c", "a1b2c"), ("x", "x")];
        for (pattern, name) in hits {
            assert!(Pattern::new(pattern).unwrap().matches(name), "{pattern} {name}");
        }
        let misses =
            [("ticker:*", "trades:BTC"), ("a*c", "abd"), ("x", "xy"), ("x", ""), ("ab*ba", "aba"), ("a*b*c", "acb")];
        for (pattern, name) in misses {
            assert!(!Pattern::new(pattern).unwrap().matches(name), "{pattern} {name}");
        }
    }

    #[test]
    fn stars_alone_name_nothing() {
        for (pattern, named) in [("*", false), ("****", false), ("l*", true), ("*s", true), ("logs", true)] {
            assert_eq!(Pattern::new(pattern).unwrap().has_fixed_part(), named, "{pattern}");
        }
    }

    #[test]
    fn invalid_patterns_are_refused() {
        for text in ["", " *", "@@x", "a\n", "a,b"] {
            assert!(matches!(Pattern::new(text), Err(InvalidPattern::Name(_))), "{text}");
        }
        assert_eq!(Pattern::new("*****"), Err(InvalidPattern::Stars));
        let says = Pattern::new("a,*").unwrap_err().to_string();
        assert_eq!(says, "a pattern is a name that may contain `*`, and this is not a name: it contains `,`");
    }
}
