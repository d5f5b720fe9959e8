//! Reads streams: pages after a cursor, the newest entries, heads. Always through the pool, whose size limits how many
//! reads a mass reconnect causes at once. Never decides what the entries prove: `page` does.

use std::sync::Arc;

use redis::{Pipeline, Value};
use tickgate_wire::model::{Message, StreamId, Topic};

use super::{
    arrival,
    page::{Backward, Forward},
};
use crate::{
    backplane::{HeadError, Newest, Page, ReadLimits, Unavailable},
    redis_link::{Failure, Pooled, RedisLink, RefusalKind},
};

/// Streams asked in one pipeline.
const HEADS_CHUNK: usize = 256;

/// What follows `after`, within the limits.
pub(super) async fn page(
    link: &RedisLink,
    topic: &Topic,
    after: StreamId,
    limits: ReadLimits,
) -> Result<Page, Unavailable> {
    let key = link.keys().stream(topic);
    let mut reader = Reader::open(link).await?;
    let mut read = Forward::new(after, limits);
    while let Some((cursor, count)) = read.next() {
        let mut pipe = redis::pipe();
        pipe.cmd("XRANGE").arg(&key).arg(cursor.to_string()).arg("+").arg("COUNT").arg(count.saturating_add(2));
        if cursor == StreamId::ZERO {
            // Fails where there is no stream.
            pipe.cmd("XINFO").arg("STREAM").arg(&key);
        }
        let replies;
        (reader, replies) = reader.ask(&pipe).await?;
        let mut replies = replies.into_iter();
        let entries = messages(replies.next(), link, topic)?;
        read.add(entries, replies.next().is_some_and(|info| was_trimmed(&info)));
    }
    Ok(read.finish())
}

/// The newest messages, within the limits.
pub(super) async fn newest(link: &RedisLink, topic: &Topic, limits: ReadLimits) -> Result<Newest, Unavailable> {
    let key = link.keys().stream(topic);
    let mut reader = Reader::open(link).await?;
    let mut read = Backward::new(limits);
    while let Some((before, count)) = read.next() {
        let end = before.map_or("+".to_owned(), |before| format!("({before}"));
        let mut pipe = redis::pipe();
        pipe.cmd("XREVRANGE").arg(&key).arg(end).arg("-").arg("COUNT").arg(count);
        let replies;
        (reader, replies) = reader.ask(&pipe).await?;
        read.add(messages(replies.into_iter().next(), link, topic)?);
    }
    Ok(read.finish())
}

/// The heads of many streams of one server, in the order of `topics`. One that can't be read fails alone.
pub(super) async fn heads(
    link: &RedisLink,
    topics: &[&Topic],
) -> Result<Vec<Result<StreamId, HeadError>>, Unavailable> {
    let mut heads = Vec::with_capacity(topics.len());
    let mut reader = Reader::open(link).await?;
    for chunk in topics.chunks(HEADS_CHUNK) {
        let mut pipe = Pipeline::with_capacity(chunk.len());
        for topic in chunk {
            pipe.cmd("XREVRANGE").arg(link.keys().stream(topic)).arg("+").arg("-").arg("COUNT").arg(1);
        }
        let replies;
        (reader, replies) = reader.ask(&pipe).await?;
        for (topic, entries) in chunk.iter().zip(replies) {
            let no_stream = is_of_another_type(&entries);
            let newest = messages(Some(entries), link, topic).map_err(|error| match no_stream {
                true => HeadError::NoStream(error.0),
                false => HeadError::Unavailable(error),
            });
            heads.push(newest.map(|newest| newest.first().and_then(|message| message.id).unwrap_or_default()));
        }
    }
    Ok(heads)
}

/// A connection of the pool, for all parts of one read.
struct Reader<'a> {
    link: &'a RedisLink,
    connection: Pooled,
}

impl<'a> Reader<'a> {
    async fn open(link: &'a RedisLink) -> Result<Self, Unavailable> {
        let connection = link.pooled().await.map_err(|failure| failed(link, &failure))?;
        Ok(Self { link, connection })
    }

    /// Runs a pipeline; errors of single commands stay in their place.
    async fn ask(self, pipe: &Pipeline) -> Result<(Self, Vec<Value>), Unavailable> {
        let Self { link, mut connection } = self;
        match connection.send_packed_commands(pipe, 0, pipe.len()).await {
            Ok(replies) => Ok((Self { link, connection }, replies)),
            Err(error) => {
                // The next reader must not receive a late answer: the connection is not given back.
                connection.discard();
                Err(failed(link, &Failure::of(&error)))
            }
        }
    }
}

fn failed(link: &RedisLink, failure: &Failure) -> Unavailable {
    link.report(failure);
    Unavailable(failure.to_string().into())
}

/// The answer to a range read of a topic's stream.
fn messages(entries: Option<Value>, link: &RedisLink, topic: &Topic) -> Result<Vec<Arc<Message>>, Unavailable> {
    match entries {
        Some(Value::Array(entries)) => Ok(entries.into_iter().filter_map(message).map(Arc::new).collect()),
        Some(Value::ServerError(error)) => {
            let failure = Failure::of(&error.into());
            if !failure.is_passing() {
                tracing::debug!(topic = topic.as_str(), %failure, "a stream can't be read");
            }
            Err(failed(link, &failure))
        }
        _ => Err(Unavailable("unexpected answer to a range read".into())),
    }
}

/// Whether the answer says that there is a key of another type.
fn is_of_another_type(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == RefusalKind::WrongType.code())
}

/// One entry of a range. `None`: not an entry at all.
fn message(entry: Value) -> Option<Message> {
    let Value::Array(parts) = entry else { return None };
    let mut parts = parts.into_iter();
    let (Value::BulkString(id), Value::Array(fields)) = (parts.next()?, parts.next()?) else { return None };
    let fields = fields.into_iter().map(|field| match field {
        Value::BulkString(bytes) => bytes,
        _ => Vec::new(),
    });
    arrival::from_entry(&id, fields)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trimming_shows_in_the_counters() {
        let pair = |name: &str, number| (Value::BulkString(name.into()), Value::Int(number));
        assert!(was_trimmed(&Value::Map(vec![pair("length", 3), pair("entries-added", 4)])));
        assert!(!was_trimmed(&Value::Map(vec![pair("length", 3), pair("entries-added", 3)])));
        assert!(!was_trimmed(&Value::Nil));
    }
}
