//! Reads one page of a topic's stream, limited in messages and bytes. Never starts a subscription.

use std::{borrow::Cow, sync::Arc};

use tickgate_wire::{
    command::{HistoryFrom, Since},
    model::{Content, Message, StreamId},
    push::GapPush,
    reply::{HistoryReply, Retained},
};

use crate::{
    backplane::{Backplane, NewestOfChannel, ReadLimits, StreamUnavailable},
    hub::{self, Hub, MemoryReservation, ReadTurn, ReaderAddress},
    session::ResolvedChannel,
};

/// Maximum size of a server message in bytes, and the share of it that is not publications.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 20;
const OVERHEAD_BYTES: usize = 4 << 10;
/// Bytes that the gateway adds to a publication, apart from the channel's name.
const META_BYTES: usize = 112;

/// Limits of a read.
#[derive(Clone, Copy, Debug)]
pub(super) struct HistoryBounds {
    /// Limits of the page.
    pub(super) page: ReadLimits,
    /// Limits of the user's stream from which the page is filtered.
    pub(super) looked_at: ReadLimits,
}

/// Reads what follows a position, or the newest publications; oldest first. The caller sets the `id`. Waits for the
/// reader's turn before each read. Also returns the reservation of the page's memory, to be held until the client has
/// received it.
pub(super) async fn read(
    backplane: &Backplane,
    (hub, reader): (&Hub, ReaderAddress),
    (resolved, from): (ResolvedChannel, HistoryFrom),
    bounds: HistoryBounds,
) -> Result<(HistoryReply, Option<MemoryReservation>), StreamUnavailable> {
    let bytes_max = bounds.page.bytes_max;
    let held = async |turn: ReadTurn, page: HistoryReply| {
        let hold = turn.end(page.messages.iter().map(|retained| retained.payload.len()).sum()).await;
        (page, hold)
    };
    match from {
        HistoryFrom::Since(since) => {
            let turn = hub.turn(reader, bytes_max).await?;
            Ok(held(turn, forward(backplane, resolved, since, bounds.page).await?).await)
        }
        HistoryFrom::Last(_) if resolved.in_user_stream => {
            let (turn, page) = newest_of_channel(backplane, (hub, reader), resolved, bounds).await?;
            Ok(held(turn, page).await)
        }
        HistoryFrom::Last(_) => {
            let turn = hub.turn(reader, bytes_max).await?;
            let newest = backplane.newest(&resolved.topic, bounds.page).await?.messages;
            let cursor = newest.last().and_then(|message| message.id).unwrap_or_default();
            Ok(held(turn, newest_page(resolved, &newest, cursor)).await)
        }
    }
}

/// A page after a position. It reports what is missing before its first message; before a later hole, the page ends.
async fn forward(
    backplane: &Backplane,
    resolved: ResolvedChannel,
    since: Since,
    limits: ReadLimits,
) -> Result<HistoryReply, StreamUnavailable> {
    let after = match since {
        Since::Earliest => StreamId::ZERO,
        Since::After(cursor) => cursor,
    };
    let page = backplane.read_on(&resolved.topic, after, None, limits).await?;
    let mut gap = page.lack.as_ref().map(hub::GapRange::of).filter(|_| since != Since::Earliest);
    let (mut cursor, mut room, mut more) =
        (gap.map_or(after, |gap| gap.cursor), MessageRoom::new(&resolved), page.more);
    let mut messages = Vec::with_capacity(page.messages.len());
    for message in &page.messages {
        let id = message.id.unwrap_or(cursor);
        match &message.content {
            Content::Unreadable if messages.is_empty() && gap.is_none() => gap = Some(hub::GapRange::unreadable(id)),
            Content::Data(payload) => {
                if is_own(&resolved, message) {
                    if !room.take(payload.len()) {
                        more = true;
                        break;
                    }
                    messages.push(Retained { id: message.id, payload: payload.clone() });
                }
            }
            Content::Unreadable => {
                more = true;
                break;
            }
        }
        cursor = id;
    }
    let gap = gap.map(|gap| told(&resolved, gap));
    Ok(HistoryReply { id: None, channel: resolved.channel, messages, cursor: Some(cursor), more, gap })
}

/// The newest publications of one channel: those of other channels are skipped and not counted.
async fn newest_of_channel(
    backplane: &Backplane,
    (hub, reader): (&Hub, ReaderAddress),
    resolved: ResolvedChannel,
    bounds: HistoryBounds,
) -> Result<(ReadTurn, HistoryReply), StreamUnavailable> {
    let mut search = NewestOfChannel::new(&resolved.topic, &resolved.channel, bounds.page, bounds.looked_at);
    loop {
        let turn = hub.turn(reader, bounds.page.bytes_max).await?;
        let is_complete = search.step(backplane).await?;
        if is_complete {
            let found = search.finish();
            return Ok((turn, newest_page(resolved, &found.messages, found.head)));
        }
        turn.end(search.last_read_bytes()).await;
    }
}

/// As many of the newest as fit.
fn newest_page(resolved: ResolvedChannel, newest: &[Arc<Message>], cursor: StreamId) -> HistoryReply {
    let mut room = MessageRoom::new(&resolved);
    let own = newest.iter().rev().filter(|message| is_own(&resolved, message));
    let fitting = own.filter_map(|message| match &message.content {
        Content::Data(payload) => Some(Retained { id: message.id, payload: payload.clone() }),
        Content::Unreadable => None,
    });
    let mut messages: Vec<_> = fitting.take_while(|retained| room.take(retained.payload.len())).collect();
    messages.reverse();
    HistoryReply { id: None, channel: resolved.channel, messages, cursor: Some(cursor), more: false, gap: None }
}

fn is_own(resolved: &ResolvedChannel, message: &Arc<Message>) -> bool {
    !resolved.in_user_stream || message.channel.as_ref() == Some(&resolved.channel)
}

fn told(resolved: &ResolvedChannel, gap: hub::GapRange) -> GapPush<'static> {
    let hub::GapRange { after, before, count, reason, cursor } = gap;
    let channels = Cow::Owned(vec![resolved.channel.clone()]);
    GapPush { channels, after: Some(after), before, count, reason: reason.as_str().into(), cursor: Some(cursor) }
}

/// The remaining bytes of one message.
struct MessageRoom {
    bytes: usize,
    each: usize,
    any: bool,
}

impl MessageRoom {
    fn new(resolved: &ResolvedChannel) -> Self {
        let each = META_BYTES + resolved.channel.len();
        Self { bytes: MESSAGE_BYTES_MAX - OVERHEAD_BYTES, each, any: false }
    }

    /// Takes room for a publication. The first one always fits.
    fn take(&mut self, payload_bytes: usize) -> bool {
        let (needed, first) = (payload_bytes + self.each, !self.any);
        self.any = true;
        let fits = needed <= self.bytes;
        self.bytes = self.bytes.saturating_sub(needed);
        fits || first
    }
}
