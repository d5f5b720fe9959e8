//! The query parameters of a handshake. Known parameters are strictly checked, others are ignored and named to the
//! client. Never logged, because they contain tokens.

use indexmap::IndexSet;
use tickgate_wire::{
    command::{self, Since},
    model::SessionSecret,
};

use super::malformed::MalformedRequest;

/// The known parameters of a handshake. Has no `Debug` on purpose: it holds credentials.
#[derive(Default)]
pub(super) struct Query {
    pub(super) token: Option<String>,
    pub(super) ticket: Option<String>,
    pub(super) since: Option<Since>,
    pub(super) last: Option<u32>,
    pub(super) session: Option<SessionSecret>,
    /// `auth=message`: the token follows in the first message.
    pub(super) auth_by_message: bool,
    /// Names of unknown parameters, bounded.
    pub(super) ignored: Vec<String>,
}

/// The known parameters of a handshake.
const KNOWN: [&str; 6] = ["token", "ticket", "since", "last", "session", "auth"];

/// Reads `a=b&c=d`, the part of the URL after `?`.
pub(super) fn read(text: &str) -> Result<Query, MalformedRequest> {
    let mut query = Query { ignored: others(text, &KNOWN), ..Query::default() };
    for (name, value) in pairs(text) {
        match name {
            "token" => once(&mut query.token, "token", decode(value))?,
            "ticket" => once(&mut query.ticket, "ticket", decode(value))?,
            "since" => once(&mut query.since, "since", decode(value).and_then(|text| text.parse().ok()))?,
            "last" => once(&mut query.last, "last", decode(value).and_then(|text| count(&text)))?,
            "session" => {
                once(&mut query.session, "session", decode(value).and_then(|text| SessionSecret::parse(&text)))?;
            }
            "auth" if value == "message" && !query.auth_by_message => query.auth_by_message = true,
            "auth" => return Err(MalformedRequest::Parameter("auth")),
            _ => {}
        }
    }
    Ok(query)
}

/// The names of parameters that are not `known`, decoded and bounded.
pub(super) fn others(text: &str, known: &[&str]) -> Vec<String> {
    let names = pairs(text).map(|(name, _)| name).filter(|name| !name.is_empty() && !known.contains(name));
    command::ignored(names.map(|name| decode_name(name).unwrap_or_else(|raw| raw)))
}

/// The parameters as written: names and values.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// One name of a list, decoded; as written if that is not valid UTF-8.
pub(super) type Name = Result<String, String>;

/// The names in `?channels=a,b` (which may be repeated), in order, without duplicates. `None` if there are more than
/// `max`; the rest is then not read.
pub(super) fn channels(text: &str, max: usize) -> Option<Vec<Name>> {
    let mut names = IndexSet::new();
    let lists = text.split('&').filter_map(|pair| pair.strip_prefix("channels="));
    for part in lists.flat_map(|list| list.split(',')) {
        // Form encoding: a space is a plus.
        let decoded = decode_name(&part.replace('+', " "));
        let parts = decoded.as_deref().map_or_else(|raw| vec![Err(raw)], |text| text.split(',').map(Ok).collect());
        for name in parts {
            if name == Ok("") {
                continue;
            }
            let name = name.map(str::to_owned).map_err(String::to_owned);
            if names.len() == max && !names.contains(&name) {
                return None;
            }
            names.insert(name);
        }
    }
    Some(names.into_iter().collect())
}

/// Percent-decodes a name once. An invalid escape is left unchanged, because no name contains `%`.
///
/// # Errors
/// The encoded text, if it does not decode to UTF-8.
pub(super) fn decode_name(value: &str) -> Name {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [byte, after @ ..] = rest {
        let escape = || match after {
            [high, low, ..] if *byte == b'%' => Some(hex(*high)? << 4 | hex(*low)?),
            _ => None,
        };
        let (byte, read) = escape().map_or((*byte, 1), |byte| (byte, 3));
        bytes.push(byte);
        rest = &rest[read..];
    }
    String::from_utf8(bytes).map_err(|_| value.to_owned())
}

/// Whether a part of a URL decodes to valid UTF-8.
#[must_use]
pub fn is_text(encoded: &str) -> bool {
    decode_name(encoded).is_ok()
}

/// A positive integer in plain digits.
fn count(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|count| digits && *count > 0)
}

/// Sets a parameter that must be valid and must not be repeated.
fn once<T>(place: &mut Option<T>, name: &'static str, value: Option<T>) -> Result<(), MalformedRequest> {
    if place.is_some() || value.is_none() {
        return Err(MalformedRequest::Parameter(name));
    }
    *place = value;
    Ok(())
}

/// Percent-decodes a value. `None` for an invalid escape, or anything but printable ASCII without spaces, which
/// suffices for all known parameters.
pub(super) fn decode(value: &str) -> Option<String> {
    let mut bytes = value.bytes();
    let mut text = String::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' { hex(bytes.next()?)? << 4 | hex(bytes.next()?)? } else { byte };
        if !byte.is_ascii_graphic() {
            return None;
        }
        text.push(char::from(byte));
    }
    Some(text)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use tickgate_wire::model::StreamId;

    use super::*;

    #[test]
    fn known_parameters_are_read_and_others_named() {
        let session = SessionSecret::random();
        let text = format!("x=%zz&token=a%2Eb.c&since=1763700000000-42&last=5&session={session}&auth=message&y");
        let query = read(&text).ok().unwrap();
        assert_eq!(query.token.as_deref(), Some("a.b.c"));
        assert_eq!(query.since, Some(Since::After(StreamId::new(1_763_700_000_000, 42))));
        assert_eq!(query.last, Some(5));
        assert_eq!(read("since=earliest").ok().unwrap().since, Some(Since::Earliest));
        assert_eq!(query.session, Some(session));
        assert!(query.auth_by_message && query.ticket.is_none());
        assert_eq!(query.ignored, ["x", "y"]);
        assert!(read("").is_ok_and(|query| query.token.is_none() && !query.auth_by_message));
        assert!(read("token=").is_ok_and(|query| query.token.as_deref() == Some("")), "an empty value is valid");
    }

    #[test]
    fn ignored_parameters_are_named_within_bounds() {
        let ignored = |text: &str| read(text).ok().unwrap().ignored;
        assert_eq!(
            ignored("channels=a&&=b&channels=c&Token=d&fil%74er=%zz&a%0Ab&%FF"),
            ["channels", "Token", "filter", "ab", "%FF"]
        );
        let many: Vec<_> = (0..1_000).map(|number| format!("{number}{}=1", "x".repeat(1_000))).collect();
        let named = ignored(&many.join("&"));
        assert_eq!((named.len(), named[0].len()), (16, 64));
    }

    #[test]
    fn channels_are_listed_in_order_without_duplicates() {
        let names = channels("token=x&channels=ticker:BTC,orders&channels=orders,trades%3ABTC", 3).unwrap();
        assert_eq!(names, ["ticker:BTC", "orders", "trades:BTC"].map(|name| Ok(name.to_owned())));
        assert!(channels("channels=&channel=x", 3).unwrap().is_empty());
    }

    #[test]
    fn each_name_of_a_list_is_decoded_separately() {
        // As `URLSearchParams` encodes "BRK B,ES=F" and "M&M.NS", and as people type them.
        let names = channels("channels=BRK+B%2CES%3DF&channels=M%26M.NS,%5EGSPC,a%2Bb,%EB%B9%84", 9).unwrap();
        assert_eq!(names, ["BRK B", "ES=F", "M&M.NS", "^GSPC", "a+b", "비"].map(|name| Ok(name.to_owned())));
        let mixed = channels("channels=a%,%zz,%4,%FF,b,%2541", 9).unwrap();
        let ok = |name: &str| Ok(name.to_owned());
        assert_eq!(mixed, [ok("a%"), ok("%zz"), ok("%4"), Err("%FF".to_owned()), ok("b"), ok("%41")], "decoded once");
    }

    #[test]
    fn reading_stops_at_the_maximum() {
        assert_eq!(channels("channels=a,b,b,a", 2).map(|names| names.len()), Some(2));
        assert_eq!(channels("channels=a,b,c", 2), None);
        let many: Vec<_> = (0..100_000).map(|number| number.to_string()).collect();
        // With a list instead of a set, this would take minutes.
        assert_eq!(channels(&format!("channels={}", many.join(",")), 100_000).map(|names| names.len()), Some(100_000));
    }

    #[test]
    fn invalid_values_are_refused_with_their_name() {
        for (name, text) in [
            ("token", "token=%"),
            ("token", "token=%4"),
            ("token", "token=%4g"),
            ("token", "token=%00"),
            ("token", "token=a%20b"),
            ("token", "token=%C3%A9"),
            ("token", "token=a&token=a"),
            ("token", "token=&token=a"),
            ("ticket", "ticket=a%0A"),
            ("since", "since"),
            ("since", "since=0"),
            ("since", "since=$"),
            ("since", "since=-1-2"),
            ("since", "since=1-2&since=1-2"),
            ("last", "last"),
            ("last", "last=0"),
            ("last", "last=+5"),
            ("last", "last=-5"),
            ("last", "last=1&last=1"),
            ("session", "session=abc"),
            ("session", "session="),
            ("auth", "auth="),
            ("auth", "auth=header"),
            ("auth", "auth=message&auth=message"),
        ] {
            assert_eq!(read(text).err(), Some(MalformedRequest::Parameter(name)), "{text}");
        }
    }
}
