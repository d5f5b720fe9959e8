//! Patterns over names: `*` stands for any run of characters. Used in configuration and in token claims only;
//! never handed to Redis, whose pattern subscriptions cost every publish.

use thiserror::Error;

/// A name, or a name with `*` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Box<str>);

/// The pattern is empty, too long, or holds a character that no name can.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a pattern is 1 to 200 characters of A-Z a-z 0-9 _ . : / - and at most 4 `*`: {0:?}")]
pub struct InvalidPattern(String);

impl Pattern {
    /// Checks and takes a pattern.
    ///
    /// # Errors
    /// [`InvalidPattern`] when empty, over 200 bytes, with more than 4 `*`, or with a character no name can hold.
    pub fn new(text: &str) -> Result<Self, InvalidPattern> {
        let stars = text.bytes().filter(|b| *b == b'*').count();
        let plain = text.replace('*', "x");
        if stars > 4 || super::check_name(&plain).is_err() {
            return Err(InvalidPattern(text.chars().take(64).collect()));
        }
        Ok(Self(text.into()))
    }

    /// Whether the whole name matches. Time is bounded by the four stars: no backtracking blow-up.
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

    /// Whether it names something: more than stars.
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
    fn bad_patterns_are_refused() {
        for text in ["", "a b", "@@x", "*****", "a\n"] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
    }
}
