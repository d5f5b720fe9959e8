//! Answers with history: one page of a topic's stream, bounded in messages and bytes. Never a subscription: what comes
//! later is not part of it.

use std::sync::Arc;

use super::run::Connection;
use crate::{
    model::{Content, Message, StreamId},
    protocol::{
        code::ErrorCode,
        push::Meta,
        reply::{self, Details, Failure},
    },
    session::Resolved,
};

impl Connection {
    pub(super) async fn history(&self, id: Option<&str>, resolved: &Resolved, since: Option<StreamId>, last: usize) {
        let backplane = &self.gateway.backplane;
        let read = match since {
            Some(cursor) => backplane.read(&resolved.topic, cursor, last).await.map(|page| {
                let complete = page.contiguous && !page.more;
                (page.messages, complete)
            }),
            None => backplane.newest(&resolved.topic, last).await.map(|messages| (messages, true)),
        };
        let Ok((messages, complete)) = read else {
            let message = "the history can't be read now";
            return self.fail(&Failure { code: ErrorCode::TryAgainLater, message, details: Details::None, id });
        };
        let (messages, whole) = within(messages, since.is_none(), self.gateway.config.limits.replay_bytes_max);
        let own = |m: &&Arc<Message>| !resolved.in_user_stream || m.channel.as_ref() == Some(&resolved.channel);
        let pushes = messages.iter().filter(own).filter_map(|message| match &message.content {
            Content::Data(payload) => {
                let live = Meta::live(&resolved.channel, message.id);
                Some((Meta { replayed: true, ..live }, payload.as_ref()))
            }
            Content::Lost { .. } => None,
        });
        let lost = messages.iter().any(|m| matches!(m.content, Content::Lost { .. }));
        self.reply(|out| reply::history(out, id, &resolved.channel, pushes, complete && whole && !lost));
    }
}

/// As many messages as one answer may hold, and whether that is all of them. The newest are kept, or the oldest.
fn within(mut messages: Vec<Arc<Message>>, newest: bool, bytes_max: usize) -> (Vec<Arc<Message>>, bool) {
    let mut bytes = 0;
    let fits = |message: &&Arc<Message>| {
        bytes += if let Content::Data(payload) = &message.content { payload.len() } else { 0 };
        bytes <= bytes_max
    };
    let count =
        if newest { messages.iter().rev().take_while(fits).count() } else { messages.iter().take_while(fits).count() };
    let whole = count == messages.len();
    if newest {
        messages.drain(..messages.len() - count);
    } else {
        // One always goes, so that whoever asks for the next page gets on.
        messages.truncate(count.max(1));
    }
    (messages, whole)
}
