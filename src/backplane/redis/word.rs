//! A private channel's name as a word of what Redis holds: of a message's header, whose words end at a blank, and of an
//! entry. Pure. Most names are their own word.

use std::borrow::Cow;

/// The word of no channel.
pub(super) const NONE: &str = "-";
/// What a blank and the word of no channel are written as. No name contains `%`.
const ESCAPES: [(&str, &str); 2] = [(" ", "%20"), (NONE, "%2D")];

/// The word that stands for a channel.
pub(super) fn of_channel(name: &str) -> Cow<'_, str> {
    let [(blank, blank_word), (_, none_word)] = ESCAPES;
    if name == NONE {
        return none_word.into();
    }
    if name.contains(blank) { name.replace(blank, blank_word).into() } else { name.into() }
}

/// The channel that a word stands for.
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
    fn a_channel_comes_back_and_its_word_has_no_blank_and_no_other_meaning() {
        for name in ["orders", "BRK B", "-", "--", "!lost", "!", "a!", " -", "M&M.NS", "a  b c"] {
            let word = of_channel(name);
            assert!(!word.contains(' ') && word != NONE, "{name}: {word}");
            assert_eq!(channel(&word).as_deref(), Some(name));
        }
        assert_eq!((channel(NONE), &*of_channel("orders")), (None, "orders"));
    }
}
