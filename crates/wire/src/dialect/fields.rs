//! Typed access to the fields of one incoming JSON object, for every dialect that uses JSON. Never echoes a value: it may
//! be a secret.

use std::borrow::Cow;

use crate::{
    code::ErrorCode,
    command::{Limits, Since, Subscribe},
    json::{JsonError, kind_of, scan_object},
    model::{StreamId, check_name},
};

/// What is wrong with a field, or with the whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) code: ErrorCode,
    /// Which field, where it is one: `channels`, `channels[2]`.
    pub(super) field: Option<String>,
    pub(super) message: String,
}

impl Wrong {
    pub(super) fn field(field: impl Into<String>, message: String) -> Self {
        Self { code: ErrorCode::InvalidMessage, field: Some(field.into()), message }
    }

    pub(super) fn message(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::InvalidMessage, field: None, message: message.into() }
    }
}

impl From<JsonError> for Wrong {
    fn from(error: JsonError) -> Self {
        Self::message(error.to_string())
    }
}

/// Keys, unescaped, with their values as they were written.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    list: Vec<(Cow<'a, str>, &'a str)>,
}

impl<'a> Fields<'a> {
    /// Reads an object. The fields before a fault are there as well, so that an `id` among them can be echoed.
    pub(super) fn read(text: &'a str, depth_max: usize) -> (Self, Result<(), JsonError>) {
        let mut list = Vec::with_capacity(8);
        let result = scan_object(text, depth_max, |key, value| list.push((key, value)));
        (Self { list }, result)
    }

    /// The value as it was written. `null` counts as absent: many clients write it for what they leave out.
    pub(super) fn raw(&self, name: &str) -> Option<&'a str> {
        self.list.iter().find(|(key, _)| key == name).map(|(_, value)| *value).filter(|value| *value != "null")
    }

    pub(super) fn string(&self, name: &str, what: &str) -> Result<Option<Cow<'a, str>>, Wrong> {
        self.raw(name).map(|raw| unquote(raw).ok_or_else(|| wrong_kind(name, what, raw))).transpose()
    }

    pub(super) fn needed_string(&self, name: &str, what: &str) -> Result<Cow<'a, str>, Wrong> {
        self.string(name, what)?.ok_or_else(|| missing(name, what))
    }

    pub(super) fn needed(&self, name: &str, what: &str) -> Result<&'a str, Wrong> {
        self.raw(name).ok_or_else(|| missing(name, what))
    }

    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, Wrong> {
        match self.raw(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(raw) => Err(wrong_kind(name, "true or false", raw)),
        }
    }

    pub(super) fn whole(&self, name: &str) -> Result<Option<u32>, Wrong> {
        let parse = |raw: &str| {
            raw.parse().map_err(|_| {
                let kind = if kind_of(raw) == "a number" { "another number" } else { kind_of(raw) };
                Wrong::field(name, format!("`{name}` must be a whole number from 0 to {}, not {kind}", u32::MAX))
            })
        };
        self.raw(name).map(parse).transpose()
    }

    /// A string or a number of at most 64 characters, as it was written.
    pub(super) fn scalar(&self, name: &str) -> Result<Option<&'a str>, Wrong> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        let (kind, quotes) = (kind_of(raw), if raw.starts_with('"') { 2 } else { 0 });
        if !matches!(kind, "a string" | "a number") {
            return Err(wrong_kind(name, "a string or a number", raw));
        }
        if raw.chars().count() > SCALAR_CHARS_MAX + quotes {
            return Err(Wrong::field(name, format!("`{name}` has more than {SCALAR_CHARS_MAX} characters")));
        }
        Ok(Some(raw))
    }

    pub(super) fn cursor(&self, name: &str) -> Result<Option<StreamId>, Wrong> {
        self.raw(name).map(|raw| cursor(name, raw)).transpose()
    }

    /// A list of names, such as channels or symbols, within the limit for one message.
    pub(super) fn names(&self, field: &'static str, limits: &Limits) -> Result<Vec<String>, Wrong> {
        let raw = self.raw(field).ok_or_else(|| missing(field, NAMES))?;
        let names = strings(field, NAMES, raw)?;
        if names.len() > limits.channels_max {
            let message = format!("`{field}` has {} names; one message can have {}", names.len(), limits.channels_max);
            return Err(Wrong { code: ErrorCode::TooManySubscriptions, ..Wrong::field(field, message) });
        }
        for (index, name) in names.iter().enumerate() {
            if let Err(error) = check_name(name) {
                let field = format!("{field}[{index}]");
                let message = format!("`{field}` is not a name: {error}");
                return Err(Wrong::field(field, message));
            }
        }
        Ok(names)
    }

    /// The fields of a `subscribe`.
    pub(super) fn subscribe(&self, limits: &Limits) -> Result<Subscribe, Wrong> {
        Ok(Subscribe {
            channels: self.names("channels", limits)?,
            since: self.since(limits)?,
            last: self.whole("last")?,
            max_rate: self.whole("max_rate")?,
            snapshot: self.boolean("snapshot")?,
        })
    }

    fn since(&self, limits: &Limits) -> Result<Since, Wrong> {
        let Some(raw) = self.raw("since") else { return Ok(Since::Live) };
        if raw.starts_with('"') {
            return cursor("since", raw).map(Since::Private);
        }
        if !raw.starts_with('{') {
            return Err(wrong_kind("since", "a cursor in quotes, or an object of channel and cursor", raw));
        }
        let mut pairs = Vec::new();
        let mut first_wrong = None;
        scan_object(raw, limits.depth_max, |channel, value| {
            if value == "null" || first_wrong.is_some() {
                return;
            }
            match cursor("since", value) {
                Ok(value) => pairs.push((channel.into_owned(), value)),
                Err(wrong) => first_wrong = Some(wrong),
            }
        })?;
        match first_wrong {
            Some(wrong) => Err(wrong),
            None => Ok(Since::PerChannel(pairs)),
        }
    }
}

const NAMES: &str = "an array of names";

/// Longest `id` or `timestamp` that is echoed.
const SCALAR_CHARS_MAX: usize = 64;

/// Reads a cursor from its JSON text.
fn cursor(field: &str, raw: &str) -> Result<StreamId, Wrong> {
    let text = unquote(raw).ok_or_else(|| wrong_kind(field, "a cursor in quotes", raw))?;
    text.parse().map_err(|error| Wrong::field(field, format!("`{field}` is not a cursor: {error}")))
}

/// Reads an array of strings from its JSON text.
fn strings(field: &str, what: &str, raw: &str) -> Result<Vec<String>, Wrong> {
    if !raw.starts_with('[') {
        return Err(wrong_kind(field, what, raw));
    }
    serde_json::from_str(raw).map_err(|_| {
        let items: Vec<&serde_json::value::RawValue> = serde_json::from_str(raw).unwrap_or_default();
        let odd = items.iter().enumerate().find(|(_, item)| unquote(item.get()).is_none());
        let (index, kind) = odd.map_or((0, "text"), |(index, item)| (index, kind_of(item.get())));
        Wrong::field(format!("{field}[{index}]"), format!("`{field}[{index}]` must be a string, not {kind}"))
    })
}

/// The text of a JSON string; `None` for any other value. `raw` was scanned before.
pub(super) fn unquote(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(raw).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

pub(super) fn missing(field: &str, what: &str) -> Wrong {
    Wrong::field(field, format!("`{field}` is missing: {what}"))
}

pub(super) fn wrong_kind(field: &str, what: &str, raw: &str) -> Wrong {
    Wrong::field(field, format!("`{field}` must be {what}, not {}", kind_of(raw)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_field_and_null_are_the_same() {
        let (fields, result) = Fields::read(r#"{"a":null,"b":"x"}"#, 32);
        assert_eq!(result, Ok(()));
        assert_eq!((fields.raw("a"), fields.raw("b"), fields.raw("c")), (None, Some("\"x\""), None));
    }

    #[test]
    fn strings_are_unescaped_and_only_strings_are_strings() {
        assert_eq!(unquote(r#""a\u0062\n""#).unwrap(), "ab\n");
        assert_eq!(unquote(r#""""#).unwrap(), "");
        assert!(unquote("1").is_none());
        assert_eq!(strings("x", "names", r#"["a","\u0062"]"#).unwrap(), ["a", "b"]);
        assert_eq!(
            strings("x", "names", r#"["a",{"b":1}]"#).unwrap_err().message,
            "`x[1]` must be a string, not an object"
        );
    }

    #[test]
    fn what_was_sent_is_not_echoed() {
        let (fields, _) = Fields::read(r#"{"a":["secret"],"b":"secret","c":-5}"#, 32);
        let faults = [
            fields.string("a", "a string").unwrap_err(),
            fields.whole("b").unwrap_err(),
            fields.whole("c").unwrap_err(),
            fields.boolean("b").unwrap_err(),
            fields.cursor("b").unwrap_err(),
            fields.scalar("a").unwrap_err(),
        ];
        for fault in faults {
            assert!(!fault.message.contains("secret"), "{}", fault.message);
        }
    }
}
