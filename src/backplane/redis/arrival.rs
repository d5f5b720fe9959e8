//! Reads what comes out of Redis: messages of a channel, entries of a stream. Pure. Never trusts their bytes: an engine
//! may have written them itself.
//!
//! A channel message is one header line without its end, then the payload:
//! `<id|-> <prev|-> <published_ms>[!] <channel|-> <payload>`. The `!` says that a replica has checked the payload.

use std::sync::Arc;

use bytes::Bytes;
use tickgate_wire::{
    model::{Content, Loss, Message, StreamId},
    payload::check_payload,
};

use super::word;

/// In the place of a private channel: the entry is a marker of lost publications.
const LOST_MARK: &str = "!lost";
/// Bytes of one field of a header: a channel of the longest name, each of its characters escaped, and more.
const FIELD_MAX: usize = 1_024;
/// Nesting allowed in what engines write into Redis themselves.
const DEPTH_MAX: usize = 64;

/// What came out of Redis was not written by the publish script, or its payload is no JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// Nothing is known of it; it takes no place in a stream.
    Nameless,
    /// The payload can't be shown to clients.
    Payload,
}

/// Reads a message of a topic's channel. The payload is a slice of `bytes`.
///
/// An entry whose payload no client could read still has its id: it arrives as a [`Content::Lost`] around itself, so
/// that the position advances and every subscriber receives the same notice.
pub(super) fn from_channel(bytes: &Bytes) -> Result<Message, Malformed> {
    let mut fields = [""; 4];
    let mut at = 0;
    for field in &mut fields {
        let rest = &bytes[at..];
        // The fields are short: an end must come soon.
        let end = rest.iter().take(FIELD_MAX).position(|byte| *byte == b' ').ok_or(Malformed::Nameless)?;
        *field = std::str::from_utf8(&rest[..end]).map_err(|_| Malformed::Nameless)?;
        at += end + 1;
    }
    let [id, prev, published, channel] = fields;
    let id = optional_id(id)?;
    let prev = optional_id(prev)?;
    let (published, checked) = match published.strip_suffix('!') {
        Some(published) => (published, true),
        None => (published, false),
    };
    let published_ms = published.parse().map_err(|_| Malformed::Nameless)?;
    let content = content(id, prev, channel, bytes.slice(at..), checked)?;
    Ok(Message { id, prev, published_ms, channel: private(channel), content })
}

/// Reads an entry of a stream: its id, and its fields as names and values in turn. `None`: not an entry at all.
pub(super) fn from_entry(id: &[u8], fields: impl IntoIterator<Item = Vec<u8>>) -> Option<Message> {
    let id: StreamId = std::str::from_utf8(id).ok()?.parse().ok()?;
    let (mut payload, mut channel) = (Vec::new(), None);
    let mut fields = fields.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        match &*name {
            b"d" => payload = value,
            b"c" => channel = String::from_utf8(value).ok(),
            _ => {}
        }
    }
    let channel = channel.as_deref().unwrap_or("-");
    let content = content(Some(id), None, channel, payload.into(), false).ok()?;
    Some(Message { id: Some(id), prev: None, published_ms: 0, channel: private(channel), content })
}

fn content(
    id: Option<StreamId>,
    prev: Option<StreamId>,
    channel: &str,
    payload: Bytes,
    checked: bool,
) -> Result<Content, Malformed> {
    if channel == LOST_MARK {
        let id = id.ok_or(Malformed::Nameless)?;
        return Ok(lost_range(&payload, id).unwrap_or_else(|| around(id, prev, Loss::Failover)));
    }
    if checked || check_payload(&payload, DEPTH_MAX).is_ok() {
        return Ok(Content::Data(payload));
    }
    id.map(|id| around(id, prev, Loss::InvalidPayload)).ok_or(Malformed::Payload)
}

/// `<after> <before|->`.
fn lost_range(payload: &[u8], own: StreamId) -> Option<Content> {
    let (after, before) = std::str::from_utf8(payload).ok()?.split_once(' ')?;
    let before = if before == "-" { own } else { before.parse().ok()? };
    Some(Content::Lost { after: after.parse().ok()?, before, loss: Loss::Failover })
}

/// Exactly the one entry is missing.
fn around(id: StreamId, prev: Option<StreamId>, loss: Loss) -> Content {
    let after = match id.seq.checked_sub(1) {
        Some(seq) => StreamId::new(id.epoch, seq),
        None => prev.unwrap_or(StreamId::ZERO),
    };
    Content::Lost { after, before: id.next(), loss }
}

fn optional_id(text: &str) -> Result<Option<StreamId>, Malformed> {
    if text == "-" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| Malformed::Nameless)
}

fn private(word: &str) -> Option<Arc<str>> {
    if word == LOST_MARK { None } else { word::channel(word).map(Into::into) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Message, Malformed> {
        from_channel(&Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn a_message_is_read_without_copying_its_payload() {
        let bytes = Bytes::from_static(br#"1700-3 - 1701! orders {"a": "b c"}"#);
        let message = from_channel(&bytes).unwrap();
        assert_eq!((message.id, message.prev), (Some(StreamId::new(1700, 3)), None));
        assert_eq!((message.published_ms, message.channel.as_deref()), (1701, Some("orders")));
        let Content::Data(payload) = message.content else { panic!("data") };
        assert_eq!(payload, r#"{"a": "b c"}"#);
        assert_eq!(payload.as_ptr(), bytes[22..].as_ptr());
    }

    #[test]
    fn any_name_of_a_channel_comes_through_the_header() {
        let long = " ".repeat(198);
        for name in ["BRK B", "-", "!lost", "ES=F", "비트코인", &format!("a{long}b")] {
            let message = read(&format!("1-1 - 0! {} {{}}", word::of_channel(name))).unwrap();
            assert_eq!(message.channel.as_deref(), Some(name));
            assert_eq!(message.content, Content::Data(Bytes::from_static(b"{}")));
        }
    }

    #[test]
    fn the_first_of_an_epoch_names_the_one_before() {
        let message = read(r"1800-0 1700-9 1 - {}").unwrap();
        assert_eq!((message.id, message.prev), (Some(StreamId::new(1800, 0)), Some(StreamId::new(1700, 9))));
    }

    #[test]
    fn a_payload_that_no_client_could_read_is_told_as_missing() {
        let lost = |after, before| Content::Lost { after, before, loss: Loss::InvalidPayload };
        let broken = read("1700-3 - 0 - {broken").unwrap();
        assert_eq!(broken.content, lost(StreamId::new(1700, 2), StreamId::new(1700, 4)));
        let first = read(r#"1700-0 1600-8 0 - {"_meta":1}"#).unwrap();
        assert_eq!(first.content, lost(StreamId::new(1600, 8), StreamId::new(1700, 1)));
        assert_eq!(read("- - 0 - [1]"), Err(Malformed::Payload));
    }

    #[test]
    fn a_marker_names_what_was_lost() {
        let message = read("1800-0 1700-4 0! !lost 1700-4 -").unwrap();
        assert_eq!(message.channel, None);
        let lost =
            Content::Lost { after: StreamId::new(1700, 4), before: StreamId::new(1800, 0), loss: Loss::Failover };
        assert_eq!(message.content, lost);
        let late = read("1800-7 - 0! !lost 1700-4 1800-0").unwrap();
        assert_eq!(late.content, lost);
    }

    #[test]
    fn what_the_script_did_not_write_has_no_place() {
        for text in ["", "hello", "1-1 - 0", "x - 0 - {}", "1-1 - x - {}", "1-1 y 0 - {}", "1-1 - 0 -", "1-1 - 0 - "] {
            assert!(matches!(read(text), Err(Malformed::Nameless) | Ok(Message { content: Content::Lost { .. }, .. })));
        }
        assert_eq!(from_channel(&Bytes::from(vec![0xff; 1000])), Err(Malformed::Nameless));
    }

    #[test]
    fn an_entry_of_a_stream_is_read_like_a_message() {
        let fields = ["x", "y", "d", "{}", "c", "orders"].map(|text| text.as_bytes().to_vec());
        let message = from_entry(b"7-8", fields).unwrap();
        assert_eq!((message.id, message.channel.as_deref()), (Some(StreamId::new(7, 8)), Some("orders")));
        assert_eq!(message.content, Content::Data(Bytes::from_static(b"{}")));
        assert_eq!(from_entry(b"7", []), None);
    }
}
