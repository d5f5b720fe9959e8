//! Answers with history: one page of a topic's stream, bounded in messages and bytes. Never a subscription: what comes
//! later is not part of it.

use std::sync::Arc;

use tickgate_wire::{
    code::ErrorCode,
    model::{Content, Message, StreamId},
    push::Meta,
    reply::{self, Details, Failure},
};

use super::run::Connection;
use crate::{backplane::ReadLimits, session::Resolved};

impl Connection {
    pub(super) async fn history(&self, id: Option<&str>, resolved: &Resolved, since: Option<StreamId>, last: usize) {
        let backplane = &self.gateway.backplane;
        let limits = ReadLimits::new(last, self.gateway.config.limits.replay_bytes_max);
        let read = match since {
            Some(cursor) => backplane.read(&resolved.topic, cursor, limits).await.map(|page| {
                let complete = page.contiguous && !page.more;
                (page.messages, complete)
            }),
            None => backplane.newest(&resolved.topic, limits).await.map(|newest| (newest.messages, newest.whole)),
        };
        let Ok((messages, complete)) = read else {
            let message = "the history can't be read now";
            return self.fail(&Failure { code: ErrorCode::TryAgainLater, message, details: Details::None, id });
        };
        let own = |m: &&Arc<Message>| !resolved.in_user_stream || m.channel.as_ref() == Some(&resolved.channel);
        let pushes = messages.iter().filter(own).filter_map(|message| match &message.content {
            Content::Data(payload) => {
                let live = Meta::live(&resolved.channel, message.id);
                Some((Meta { replayed: true, ..live }, payload.as_ref()))
            }
            Content::Lost { .. } => None,
        });
        let lost = messages.iter().any(|m| matches!(m.content, Content::Lost { .. }));
        self.reply(|out| reply::history(out, id, &resolved.channel, pushes, complete && !lost));
    }
}
