//! Decodes messages of a channel and entries of a stream. Pure. Never trusts their bytes: an engine may have written
//! them.
//!
//! A channel message is a header line, then the payload: `<id|-> <prev|?|-> <generation> <published_ms> <channel|->`
//! and fields that later versions may add, each after a blank.

use std::sync::Arc;

use bytes::Bytes;
use tickgate_wire::{
    model::{Content, Message, StreamId},
    payload::{PAYLOAD_BYTES_MAX, PAYLOAD_DEPTH_MAX, check_payload},
};

use super::word;

/// Maximum size of a header in bytes: fits a channel of maximum length with every character escaped.
const HEADER_MAX: usize = 2048;
/// The predecessor of a stream's first entry, if nothing is known about what precedes it.
const UNKNOWN: &str = "?";

/// The message was not written by the publish script, or its payload is not a JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MalformedMessage {
    /// It has no place in a stream.
    Nameless,
    /// The payload cannot be sent to clients.
    Payload,
}

/// A message of a channel, and the generation of the server in which it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReceivedPublication {
    pub(super) message: Message,
    pub(super) generation: u64,
}

/// Decodes a message of a topic's channel. The payload is a slice of `bytes`.
///
/// An entry with an invalid payload still has its id: it becomes [`Content::Unreadable`], so that the position advances
/// and every subscriber receives the same notice.
pub(super) fn from_channel(bytes: &Bytes) -> Result<ReceivedPublication, MalformedMessage> {
    let end = bytes.iter().take(HEADER_MAX).position(|byte| *byte == b'\n').ok_or(MalformedMessage::Nameless)?;
    let header = std::str::from_utf8(&bytes[..end]).map_err(|_| MalformedMessage::Nameless)?;
    let mut fields = header.split(' ');
    let mut field = || fields.next().ok_or(MalformedMessage::Nameless);
    let (id, prev) = (optional_id(field()?)?, optional_id(field()?)?);
    let generation = field()?.parse().map_err(|_| MalformedMessage::Nameless)?;
    let published_ms = field()?.parse().map_err(|_| MalformedMessage::Nameless)?;
    let channel = private(field()?);
    let content = content(id, bytes.slice(end + 1..))?;
    Ok(ReceivedPublication { message: Message { id, prev, published_ms, channel, content }, generation })
}

/// Decodes an entry of a stream: its id, and its fields as alternating names and values. `None`: not an entry.
pub(super) fn from_entry(id: &[u8], fields: impl IntoIterator<Item = Vec<u8>>) -> Option<Message> {
    let id: StreamId = std::str::from_utf8(id).ok()?.parse().ok()?;
    let (mut payload, mut channel, mut prev) = (Vec::new(), None, None);
    let mut fields = fields.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        match &*name {
            b"d" => payload = value,
            b"c" => channel = String::from_utf8(value).ok(),
            b"p" => prev = std::str::from_utf8(&value).ok().and_then(|text| optional_id(text).ok()).flatten(),
            _ => {}
        }
    }
    let content = content(Some(id), payload.into()).ok()?;
    Some(Message { id: Some(id), prev, published_ms: 0, channel: channel.as_deref().and_then(private), content })
}

fn content(id: Option<StreamId>, payload: Bytes) -> Result<Content, MalformedMessage> {
    if payload.len() <= PAYLOAD_BYTES_MAX && check_payload(&payload, PAYLOAD_DEPTH_MAX).is_ok() {
        return Ok(Content::Data(payload));
    }
    id.map(|_| Content::Unreadable).ok_or(MalformedMessage::Payload)
}

fn optional_id(text: &str) -> Result<Option<StreamId>, MalformedMessage> {
    match text {
        "-" => Ok(None),
        UNKNOWN => Ok(Some(StreamId::ZERO)),
        text => text.parse().map(Some).map_err(|_| MalformedMessage::Nameless),
    }
}

fn private(word: &str) -> Option<Arc<str>> {
    word::channel(word).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Message, MalformedMessage> {
        from_channel(&Bytes::copy_from_slice(text.as_bytes())).map(|heard| heard.message)
    }

    #[test]
    fn a_message_is_read_without_copying_its_payload() {
        let bytes = Bytes::from_static(b"1700-3 - 1600 1701 orders\n{\"a\": \"b c\"}");
        let ReceivedPublication { message, generation } = from_channel(&bytes).unwrap();
        assert_eq!((message.id, message.prev, generation), (Some(StreamId::new(1700, 3)), None, 1600));
        assert_eq!((message.published_ms, message.channel.as_deref()), (1701, Some("orders")));
        let Content::Data(payload) = message.content else { panic!("data") };
        assert_eq!(payload, r#"{"a": "b c"}"#);
        assert_eq!(payload.as_ptr(), bytes[26..].as_ptr());
    }

    #[test]
    fn any_channel_name_passes_through_the_header() {
        let long = " ".repeat(198);
        for name in ["BRK B", "-", "!lost", "ES=F", "비트코인", &format!("a{long}b")] {
            let message = read(&format!("1-1 - 1 0 {}\n{{}}", word::of_channel(name))).unwrap();
            assert_eq!(message.channel.as_deref(), Some(name));
            assert_eq!(message.content, Content::Data(Bytes::from_static(b"{}")));
        }
    }

    #[test]
    fn the_first_of_an_epoch_names_the_previous_id() {
        let message = read("1800-0 1700-9 1800 1 -\n{}").unwrap();
        assert_eq!((message.id, message.prev), (Some(StreamId::new(1800, 0)), Some(StreamId::new(1700, 9))));
        assert_eq!(read("1800-0 ? 1800 1 -\n{}").unwrap().prev, Some(StreamId::ZERO));
    }

    #[test]
    fn fields_of_a_later_version_are_ignored() {
        assert_eq!(read("1800-0 - 1800 1 - key=BTC op=5\n{}"), read("1800-0 - 1800 1 -\n{}"));
    }

    #[test]
    fn an_invalid_payload_keeps_its_place() {
        let large = format!("1700-3 - 1 0 -\n{{\"a\":\"{}\"}}", "x".repeat(PAYLOAD_BYTES_MAX));
        for text in ["1700-3 - 1 0 -\n{broken", "1700-3 - 1 0 -\n{\"_meta\":1}", &large] {
            assert_eq!(read(text).unwrap().content, Content::Unreadable);
        }
        assert_eq!(read("- - 1 0 -\n[1]"), Err(MalformedMessage::Payload));
    }

    #[test]
    fn every_acceptable_payload_is_readable() {
        let nested = format!("{}1{}", r#"{"a":"#.repeat(PAYLOAD_DEPTH_MAX), "}".repeat(PAYLOAD_DEPTH_MAX));
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(PAYLOAD_BYTES_MAX - 8));
        for payload in [nested, large] {
            assert!(check_payload(payload.as_bytes(), PAYLOAD_DEPTH_MAX).is_ok());
            let content = read(&format!("1700-3 - 1 0 -\n{payload}")).unwrap().content;
            assert!(content == Content::Data(payload.into()));
        }
    }

    #[test]
    fn a_message_that_the_script_did_not_write_has_no_place() {
        for text in ["", "hello", "1-1 - 0", "x - 0 0 -\n{}", "1-1 - x 0 -\n{}", "1-1 y 0 0 -\n{}", "1-1 - 0 -\n"] {
            assert_eq!(read(text), Err(MalformedMessage::Nameless), "{text}");
        }
        assert_eq!(from_channel(&Bytes::from(vec![0xff; 4000])), Err(MalformedMessage::Nameless));
    }

    #[test]
    fn an_entry_of_a_stream_is_read_like_a_message() {
        let fields = ["x", "y", "d", "{}", "c", "orders", "p", "7-1"].map(|text| text.as_bytes().to_vec());
        let message = from_entry(b"7-8", fields).unwrap();
        assert_eq!((message.id, message.channel.as_deref()), (Some(StreamId::new(7, 8)), Some("orders")));
        assert_eq!(
            (message.content, message.prev),
            (Content::Data(Bytes::from_static(b"{}")), Some(StreamId::new(7, 1)))
        );
        assert_eq!(from_entry(b"7", []), None);
    }
}
