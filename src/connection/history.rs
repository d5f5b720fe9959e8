//! One page of a topic's stream, bounded in messages and bytes. Never a subscription: later messages are not part of it.

use std::sync::Arc;

use tickgate_wire::{
    model::{Content, Message, StreamId},
    push::Meta,
};

use crate::{
    backplane::{Backplane, ReadLimits, Unavailable},
    session::Resolved,
};

/// Messages of one channel, oldest first.
pub(super) struct Page {
    messages: Vec<Arc<Message>>,
    /// Nothing is missing: neither cut off by a limit nor lost.
    pub(super) is_complete: bool,
}

/// Reads what came after `since`, or the newest messages.
pub(super) async fn read(
    backplane: &Backplane,
    resolved: &Resolved,
    since: Option<StreamId>,
    limits: ReadLimits,
) -> Result<Page, Unavailable> {
    let (mut messages, complete) = match since {
        Some(cursor) => {
            let page = backplane.read(&resolved.topic, cursor, limits).await?;
            (page.messages, page.contiguous && !page.more)
        }
        None => {
            let newest = backplane.newest(&resolved.topic, limits).await?;
            (newest.messages, newest.whole)
        }
    };
    let lost = messages.iter().any(|message| matches!(message.content, Content::Lost { .. }));
    if resolved.in_user_stream {
        messages.retain(|message| message.channel.as_ref() == Some(&resolved.channel));
    }
    Ok(Page { messages, is_complete: complete && !lost })
}

impl Page {
    /// The messages as replayed pushes of `channel`.
    pub(super) fn pushes<'a>(&'a self, channel: &'a str) -> impl Iterator<Item = (Meta<'a>, &'a [u8])> {
        self.messages.iter().filter_map(move |message| match &message.content {
            Content::Data(payload) => {
                let live = Meta::live(channel, message.id);
                Some((Meta { replayed: true, ..live }, payload.as_ref()))
            }
            Content::Lost { .. } => None,
        })
    }
}
