//! Reads streams: pages after a cursor, the newest entries, heads. Always through the pool, whose size is the admission
//! limit of a reconnect herd. Never guesses: what can't be proven contiguous is said not to be.

use std::sync::Arc;

use redis::{Pipeline, Value};
use tickgate_wire::model::{Message, StreamId, Topic};

use super::arrival;
use crate::{
    backplane::{Newest, Page, ReadLimits, Unavailable},
    redis_link::{Failure, RedisLink},
};

/// Streams asked in one pipeline.
const HEADS_CHUNK: usize = 256;
/// Entries of the first part of a read, and of the others: what is fetched over a limit in bytes is no more.
const PART_MIN: usize = 64;
const PART_MAX: usize = 128;

/// What follows `after`, within the limits. Read in parts over one connection, so that large messages are not all fetched
/// to be thrown away.
///
/// Each part begins with the cursor itself: where its entry is still there, everything behind it is contiguous because
/// it is its neighbour, also across epochs.
pub(super) async fn page(
    link: &RedisLink,
    topic: &Topic,
    after: StreamId,
    limits: ReadLimits,
) -> Result<Page, Unavailable> {
    let key = link.keys().stream(topic);
    let mut reader = Reader::open(link).await?;
    let (mut whole, mut bytes, mut cursor) = (Page { messages: Vec::new(), contiguous: true, more: false }, 0, after);
    for part_max in part_sizes() {
        let limit = part_max.min(limits.messages_max - whole.messages.len());
        let part;
        (reader, part) = reader.part(&key, cursor, limit).await?;
        if whole.messages.is_empty() {
            whole.contiguous = part.contiguous;
        } else if !part.contiguous {
            // Trimmed or lost meanwhile: for the next read to tell.
            whole.more = true;
            break;
        }
        let fits = limits.room(whole.messages.len(), bytes, part.messages.iter());
        whole.more = part.more || fits < part.messages.len();
        let all = fits == part.messages.len();
        bytes += part.messages[..fits].iter().map(|message| message.payload_bytes()).sum::<usize>();
        whole.messages.extend(part.messages.into_iter().take(fits));
        if !whole.more || !all || whole.messages.len() >= limits.messages_max {
            break;
        }
        cursor = whole.messages.last().and_then(|message| message.id).unwrap_or(cursor);
    }
    Ok(whole)
}

/// How many entries the parts of one read have: few at first, since they may be large.
fn part_sizes() -> impl Iterator<Item = usize> {
    std::iter::once(PART_MIN).chain(std::iter::repeat(PART_MAX))
}

/// Decides contiguity. `trimmed`: something was ever removed from the stream (only asked for from the start).
fn assemble(mut messages: Vec<Arc<Message>>, after: StreamId, limit: usize, trimmed: bool) -> Page {
    let first = messages.first().and_then(|message| message.id);
    let contiguous = match first {
        Some(first) if first == after => {
            messages.remove(0);
            true
        }
        Some(first) if after == StreamId::ZERO => first.seq == 0 && !trimmed,
        Some(first) => first.directly_after(after),
        None => after == StreamId::ZERO && !trimmed,
    };
    let more = messages.len() > limit;
    messages.truncate(limit);
    Page { messages, contiguous, more }
}

/// The newest messages, within the limits.
pub(super) async fn newest(link: &RedisLink, topic: &Topic, limits: ReadLimits) -> Result<Newest, Unavailable> {
    let key = link.keys().stream(topic);
    let mut reader = Reader::open(link).await?;
    let (mut newest, mut bytes, mut whole, mut end) = (Vec::new(), 0, true, "+".to_owned());
    for part_max in part_sizes() {
        let limit = part_max.min(limits.messages_max - newest.len());
        let mut pipe = redis::pipe();
        pipe.cmd("XREVRANGE").arg(&key).arg(&end).arg("-").arg("COUNT").arg(limit);
        let entries;
        (reader, entries) = reader.ask_one(&pipe, "XREVRANGE").await?;
        let part = messages(entries)?;
        let fits = limits.room(newest.len(), bytes, part.iter());
        let (count, oldest) = (part.len(), part.last().and_then(|message| message.id));
        bytes += part[..fits].iter().map(|message| message.payload_bytes()).sum::<usize>();
        newest.extend(part.into_iter().take(fits));
        whole = fits == count;
        let Some(oldest) = oldest.filter(|_| whole && count == limit && newest.len() < limits.messages_max) else {
            break;
        };
        end = format!("({oldest}");
    }
    newest.reverse();
    Ok(Newest { messages: newest, whole })
}

/// The heads of many streams, in the order asked.
pub(super) async fn heads(link: &RedisLink, topics: &[Topic]) -> Result<Vec<StreamId>, Unavailable> {
    let mut heads = Vec::with_capacity(topics.len());
    let mut reader = Reader::open(link).await?;
    for chunk in topics.chunks(HEADS_CHUNK) {
        let mut pipe = Pipeline::with_capacity(chunk.len());
        for topic in chunk {
            pipe.cmd("XREVRANGE").arg(link.keys().stream(topic)).arg("+").arg("-").arg("COUNT").arg(1);
        }
        let replies;
        (reader, replies) = reader.ask(&pipe).await?;
        for entries in replies {
            let newest = messages(entries)?;
            heads.push(newest.first().and_then(|message| message.id).unwrap_or_default());
        }
    }
    Ok(heads)
}

/// A connection of the pool, for all parts of one read.
struct Reader<'a> {
    link: &'a RedisLink,
    connection: deadpool_redis::Connection,
}

impl<'a> Reader<'a> {
    async fn open(link: &'a RedisLink) -> Result<Self, Unavailable> {
        let connection = link.pooled().await.map_err(|failure| failed(link, &failure))?;
        Ok(Self { link, connection })
    }

    /// What follows `after`, `limit` messages at the most.
    async fn part(self, key: &str, after: StreamId, limit: usize) -> Result<(Self, Page), Unavailable> {
        let mut pipe = redis::pipe();
        pipe.cmd("XRANGE").arg(key).arg(after.to_string()).arg("+").arg("COUNT").arg(limit.saturating_add(2));
        if after == StreamId::ZERO {
            // Fails where there is no stream.
            pipe.cmd("XINFO").arg("STREAM").arg(key);
        }
        let (reader, replies) = self.ask(&pipe).await?;
        let mut replies = replies.into_iter();
        let entries = replies.next().ok_or_else(|| unexpected("XRANGE"))?;
        let trimmed = replies.next().is_some_and(|info| was_trimmed(&info));
        Ok((reader, assemble(messages(entries)?, after, limit, trimmed)))
    }

    async fn ask_one(self, pipe: &Pipeline, what: &str) -> Result<(Self, Value), Unavailable> {
        let (reader, replies) = self.ask(pipe).await?;
        Ok((reader, replies.into_iter().next().ok_or_else(|| unexpected(what))?))
    }

    /// Runs a pipeline; errors of single commands stay in their place.
    async fn ask(self, pipe: &Pipeline) -> Result<(Self, Vec<Value>), Unavailable> {
        let Self { link, mut connection } = self;
        match connection.send_packed_commands(pipe, 0, pipe.len()).await {
            Ok(replies) => Ok((Self { link, connection }, replies)),
            Err(error) => {
                // A late answer must not meet the next reader: the connection is not given back.
                drop(deadpool_redis::Connection::take(connection));
                Err(failed(link, &Failure::of(&error)))
            }
        }
    }
}

fn failed(link: &RedisLink, failure: &Failure) -> Unavailable {
    link.report(failure);
    Unavailable(failure.to_string().into())
}

fn messages(entries: Value) -> Result<Vec<Arc<Message>>, Unavailable> {
    match entries {
        Value::Array(entries) => Ok(entries.into_iter().filter_map(arrival::from_entry).map(Arc::new).collect()),
        Value::ServerError(error) => Err(Unavailable(Failure::of(&error.into()).to_string().into())),
        _ => Err(unexpected("a range")),
    }
}

/// Whether entries were ever removed: more were added than there are.
fn was_trimmed(info: &Value) -> bool {
    let number = |name: &str| {
        let find = |key: &Value, value: &Value| match (key, value) {
            (Value::BulkString(key), Value::Int(number)) if key == name.as_bytes() => Some(*number),
            _ => None,
        };
        match info {
            Value::Map(pairs) => pairs.iter().find_map(|(key, value)| find(key, value)),
            Value::Array(flat) => flat.chunks_exact(2).find_map(|pair| find(&pair[0], &pair[1])),
            _ => None,
        }
    };
    matches!((number("entries-added"), number("length")), (Some(added), Some(length)) if added > length)
}

fn unexpected(what: &str) -> Unavailable {
    Unavailable(format!("unexpected answer to {what}").into())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tickgate_wire::model::Content;

    use super::*;

    fn entries(ids: &[(u64, u64)]) -> Vec<Arc<Message>> {
        let message = |&(epoch, seq): &(u64, u64)| Message {
            id: Some(StreamId::new(epoch, seq)),
            prev: None,
            published_ms: 0,
            channel: None,
            content: Content::Data(Bytes::from_static(b"{}")),
        };
        ids.iter().map(message).map(Arc::new).collect()
    }

    fn page(ids: &[(u64, u64)], after: (u64, u64), trimmed: bool) -> (usize, bool, bool) {
        let page = assemble(entries(ids), StreamId::new(after.0, after.1), 2, trimmed);
        (page.messages.len(), page.contiguous, page.more)
    }

    #[test]
    fn neighbours_of_the_cursor_are_contiguous_whatever_their_epoch() {
        assert_eq!(page(&[(5, 3), (5, 4)], (5, 3), false), (1, true, false));
        assert_eq!(page(&[(5, 3), (9, 0)], (5, 3), false), (1, true, false));
        assert_eq!(page(&[(5, 3)], (5, 3), false), (0, true, false));
        assert_eq!(page(&[(5, 3), (5, 4), (5, 5), (5, 6)], (5, 3), false), (2, true, true));
    }

    #[test]
    fn without_the_cursors_entry_only_the_next_number_proves_anything() {
        assert_eq!(page(&[(5, 4)], (5, 3), false), (1, true, false));
        assert_eq!(page(&[(5, 5)], (5, 3), false), (1, false, false));
        assert_eq!(page(&[(9, 0)], (5, 3), false), (1, false, false));
        assert_eq!(page(&[], (5, 3), false), (0, false, false));
    }

    #[test]
    fn from_the_start_nothing_may_have_been_removed() {
        assert_eq!(page(&[(5, 0), (5, 1)], (0, 0), false), (2, true, false));
        assert_eq!(page(&[(5, 0)], (0, 0), true), (1, false, false));
        assert_eq!(page(&[(5, 7)], (0, 0), false), (1, false, false));
        assert_eq!(page(&[], (0, 0), false), (0, true, false));
        assert_eq!(page(&[], (0, 0), true), (0, false, false));
    }

    #[test]
    fn trimming_shows_in_the_counters() {
        let pair = |name: &str, number| (Value::BulkString(name.into()), Value::Int(number));
        assert!(was_trimmed(&Value::Map(vec![pair("length", 3), pair("entries-added", 4)])));
        assert!(!was_trimmed(&Value::Map(vec![pair("length", 3), pair("entries-added", 3)])));
        assert!(!was_trimmed(&Value::Nil));
    }
}
