//! Names, users, patterns and cursors: accepted text is written as it was read, and has one meaning.

use tickgate_wire::model::{MsgId, Pattern, RESERVED, StreamId, Topic, UserId, check_name};

/// Names, users and patterns, one per line.
pub(super) fn names(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let (name, user, pattern) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let good = check_name(name).is_ok();
    assert_eq!(Topic::public(name).is_ok(), good);
    let visible = |text: &str| !text.is_empty() && text.len() <= 128 && !text.chars().any(char::is_control);
    // Users contain no invisible characters either.
    assert!(UserId::new(user).is_err() || visible(user));
    assert_eq!(MsgId::new(user).is_ok(), visible(user));
    if good {
        assert!(!name.contains(RESERVED) && name.len() <= Topic::LEN_MAX && name == name.trim(), "{name:?}");
        // The same bytes in JSON, and one line in a log or an event stream.
        assert_eq!(serde_json::to_string(name).unwrap(), format!("\"{name}\""));
        assert!(name.lines().count() == 1 && !name.chars().any(|c| c.is_control()), "{name:?}");
        assert_eq!(Topic::public(name).unwrap().owner(), None);
        if let Ok(user) = UserId::new(user) {
            assert_eq!(Topic::private(&user, name).owner(), Some(user.as_str()), "{name:?}");
            assert_eq!(Topic::user_stream(&user).owner(), Some(user.as_str()));
            assert_ne!(Topic::private(&user, name), Topic::user_stream(&user));
        }
    }
    if let Ok(known) = Pattern::new(pattern) {
        assert_eq!(known.as_str(), pattern);
        assert_eq!(known.matches(name), matches_plainly(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
    }
}

/// The meaning of a pattern, in the simplest implementation: the set of possible positions in the name, one character
/// after another.
fn matches_plainly(pattern: &[u8], name: &[u8]) -> bool {
    let mut places = vec![false; name.len() + 1];
    places[0] = true;
    for sign in pattern {
        if *sign == b'*' {
            let first = places.iter().position(|place| *place).unwrap_or(places.len());
            places[first..].fill(true);
        } else {
            let after = (0..name.len()).map(|at| places[at] && name[at] == *sign);
            places = std::iter::once(false).chain(after).collect();
        }
    }
    places[name.len()]
}

/// Cursors: written as they were read, ordered as their numbers.
pub(super) fn cursors(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let (one, other) = text.split_once('\n').unwrap_or((text, ""));
    let (one_id, other_id) = (one.parse::<StreamId>(), other.parse::<StreamId>());
    if let Ok(id) = one_id {
        assert_eq!(id.to_string().parse(), Ok(id));
        let plain: String = one.split('-').map(|part| part.trim_start_matches('0')).collect::<Vec<_>>().join("-");
        let written: String =
            id.to_string().split('-').map(|part| part.trim_start_matches('0')).collect::<Vec<_>>().join("-");
        assert_eq!(written, plain, "{one:?}");
        assert!(id.next() >= id && (id.next() == id || id.next().directly_after(id)));
    }
    if let (Ok(one), Ok(other)) = (one_id, other_id) {
        assert_eq!(one.cmp(&other), (one.epoch, one.seq).cmp(&(other.epoch, other.seq)));
        assert_eq!(one.directly_after(other), StreamId::missing_between(other, one) == Some(0));
    }
}
