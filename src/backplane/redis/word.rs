//! A private channel's name as a word of what Redis holds: of a message's header, whose words end at a blank, and of an
//! entry. Pure. Most names are their own word.

use std::borrow::Cow;

/// The word of no channel.
pub(super) const NONE: &str = "-";
/// What a blank, the word of no channel, and the first character of a marker are written as. No name contains `%`.
const ESCAPES: [(&str, &str); 3] = [(" ", "%20"), (NONE, "%2D"), ("!", "%21")];

/// The word that stands for a channel.
pub(super) fn of_channel(name: &str) -> Cow<'_, str> {
    let [(blank, blank_word), (_, none_word), (mark, mark_word)] = ESCAPES;
    if name == NONE {
        return none_word.into();
    }
    let mut word = Cow::Borrowed(name);
    if name.contains(blank) {
        word = word.replace(blank, blank_word).into();
    }
    match word.strip_prefix(mark) {
        Some(rest) => format!("{mark_word}{rest}").into(),
        None => word,
    }
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
            assert!(!word.contains(' ') && word != NONE && !word.starts_with('!'), "{name}: {word}");
            assert_eq!(channel(&word).as_deref(), Some(name));
        }
        assert_eq!((channel(NONE), &*of_channel("orders")), (None, "orders"));
    }
}
