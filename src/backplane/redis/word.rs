//! Escapes a private channel's name for Redis: for message headers, whose fields end at a blank, and for entries. Pure.
//! Most names need no escape.

use std::borrow::Cow;

/// Stands for no channel.
pub(super) const NONE: &str = "-";
/// The escapes of a blank and of the word that stands for no channel. No name contains `%`.
const ESCAPES: [(&str, &str); 2] = [(" ", "%20"), (NONE, "%2D")];

/// The escaped name of a channel.
pub(super) fn of_channel(name: &str) -> Cow<'_, str> {
    let [(blank, blank_word), (_, none_word)] = ESCAPES;
    if name == NONE {
        return none_word.into();
    }
    if name.contains(blank) { name.replace(blank, blank_word).into() } else { name.into() }
}

/// The channel of an escaped name.
pub(super) fn channel(word: &str) -> Option<Cow<'_, str>> {
    if word == NONE {
        return None;
    }
    if !word.contains('%') {
        return Some(word.into());
    }
    Some(ESCAPES.iter().fold(word.to_owned(), |name, (plain, escape)| name.replace(escape, plain)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_survives_escaping_and_its_word_is_unambiguous() {
        for name in ["orders", "BRK B", "-", "--", "!lost", "!", "a!", " -", "M&M.NS", "a  b c"] {
            let word = of_channel(name);
            assert!(!word.contains(' ') && word != NONE, "{name}: {word}");
            assert_eq!(channel(&word).as_deref(), Some(name));
        }
        assert_eq!((channel(NONE), &*of_channel("orders")), (None, "orders"));
    }
}
