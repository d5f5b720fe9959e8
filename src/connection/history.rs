//! One page of a topic's stream, bounded in messages and bytes. Never a subscription: later messages are not part of it.

use std::sync::Arc;

use tickgate_wire::{
    model::{Content, Message, StreamId},
    reply::Retained,
};

use crate::{
    backplane::{Backplane, ReadLimits, Unavailable},
    session::Resolved,
};

/// Publications of one channel, oldest first.
pub(super) struct Page {
    pub(super) messages: Vec<Retained>,
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
    let (messages, complete) = match since {
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
    let own = |m: &&Arc<Message>| !resolved.in_user_stream || m.channel.as_ref() == Some(&resolved.channel);
    let retained = messages.iter().filter(own).filter_map(|message| match &message.content {
        Content::Data(payload) => Some(Retained { id: message.id, payload: payload.clone() }),
        Content::Lost { .. } => None,
    });
    Ok(Page { messages: retained.collect(), is_complete: complete && !lost })
}
