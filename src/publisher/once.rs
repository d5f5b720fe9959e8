//! What identifies a repeated publication: a `msg_id` belongs to a channel and to its publisher there, and stands for
//! one content. Pure. Does not decide who may publish.

use aws_lc_rs::digest::{Context, SHA256};
use tickgate_wire::model::{InvalidId, MsgId, Once};

/// A publisher's own id of a publication, and the publisher it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct MsgName<'a> {
    /// The id as the publisher wrote it.
    pub msg_id: &'a str,
    /// Whose id it is.
    pub publisher: PublisherName<'a>,
    /// Which of the publisher's programs sent it, if the message names it.
    pub source: Option<&'a str>,
    /// What a repetition has in common with the first publication. `None`: the payload, byte for byte.
    pub content: Option<&'a [u8]>,
}

/// The namespace of `msg_id`s: publishers can neither use up nor see each other's ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublisherName<'a> {
    /// An API key, by its name. All keys without a name are one publisher, so that replacing one does not allow
    /// duplicates.
    Key(&'a str),
    /// The user of a token.
    User(&'a str),
    /// A feed: the same on all replicas.
    Feed(&'a str),
    /// A publisher without credentials in development mode.
    Nobody,
}

impl<'a> MsgName<'a> {
    /// The id `msg_id` of this publisher.
    #[must_use]
    pub const fn new(msg_id: &'a str, publisher: PublisherName<'a>) -> Self {
        Self { msg_id, publisher, source: None, content: None }
    }

    /// The form that back ends store. `channel` includes the user of a private channel.
    ///
    /// # Errors
    /// [`InvalidId`] if the `msg_id` is invalid.
    pub(super) fn once(&self, channel: (&str, Option<&str>), payload: &[u8]) -> Result<Once, InvalidId> {
        MsgId::new(self.msg_id)?;
        let (kind, publisher) = match self.publisher {
            PublisherName::Key(name) => ("key", name),
            PublisherName::User(name) => ("user", name),
            PublisherName::Feed(name) => ("feed", name),
            PublisherName::Nobody => ("nobody", ""),
        };
        // An absent source differs from every name: names are not empty.
        let parts =
            [channel.0, channel.1.unwrap_or_default(), kind, publisher, self.source.unwrap_or_default(), self.msg_id];
        let mut name = Context::new(&SHA256);
        for part in parts {
            // With its length: otherwise the boundary between two parts would be ambiguous.
            name.update(&(part.len() as u64).to_be_bytes());
            name.update(part.as_bytes());
        }
        let mut content = Context::new(&SHA256);
        content.update(self.content.unwrap_or(payload));
        Ok(Once { name: u128::from_be_bytes(first(name)), content: u64::from_be_bytes(first(content)) })
    }
}

/// The first bytes of a digest.
fn first<const N: usize>(context: Context) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&context.finish().as_ref()[..N]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_msg_id_belongs_to_a_channel_and_a_publisher() {
        let name = |channel, publisher, source, msg_id| {
            let msg = MsgName { source, ..MsgName::new(msg_id, publisher) };
            msg.once(channel, b"{}").unwrap().name
        };
        let alice = ("orders", Some("alice"));
        let all = [
            name(alice, PublisherName::Key("a"), None, "m"),
            name(alice, PublisherName::User("a"), None, "m"),
            name(alice, PublisherName::Feed("a"), None, "m"),
            name(alice, PublisherName::Nobody, None, "m"),
            name(alice, PublisherName::Key("b"), None, "m"),
            name(alice, PublisherName::Key("a"), Some("m"), "m"),
            name(alice, PublisherName::Key("a"), None, "n"),
            name(("orders", Some("bob")), PublisherName::Key("a"), None, "m"),
            name(("orders", None), PublisherName::Key("a"), None, "m"),
            name(("bot_status", Some("alice")), PublisherName::Key("a"), None, "m"),
            name(alice, PublisherName::Key(""), Some("a"), "m"),
            name(("order", Some("salice")), PublisherName::Key("a"), None, "m"),
        ];
        let different: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len(), "{all:x?}");
        assert_eq!(name(alice, PublisherName::Key("a"), None, "m"), all[0]);
    }

    #[test]
    fn a_repetition_has_the_content_of_the_first() {
        let msg = MsgName::new("m", PublisherName::Nobody);
        let content = |msg: MsgName<'_>, payload: &[u8]| msg.once(("logs", None), payload).unwrap().content;
        assert_eq!(content(msg, b"{}"), content(msg, b"{}"));
        assert_ne!(content(msg, b"{}"), content(msg, b"{ }"));
        let by_name = MsgName { content: Some(b""), ..msg };
        assert_eq!(content(by_name, b"{}"), content(by_name, b"{ }"));
        assert!(MsgName { msg_id: "", ..msg }.once(("logs", None), b"{}").is_err());
    }
}
