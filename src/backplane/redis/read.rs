//! Reads streams: pages after a cursor, the newest entries, their ends. Always through the pool, whose size limits
//! concurrent reads after a mass reconnect. Never judges what the entries prove, and never returns data of another
//! server than the one that the replica is attached to.

use std::sync::Arc;

use redis::{Pipeline, Value};
use tickgate_wire::model::{Message, StreamId, Topic};

use super::{
    arrival,
    membership::Membership,
    page::{Backward, Forward},
    script,
};
use crate::{
    backplane::{HeadError, Newest, ReadLimits, StreamPage, StreamUnavailable},
    redis_link::{PooledConnection, RedisCommand, RedisFailure, RedisLink, RefusalKind},
};

/// Number of streams queried in one pipeline.
const HEADS_CHUNK: usize = 256;
/// Lifetime of the position of a topic without a stream: for a user's own topic, and for any other, whose names
/// strangers can make up.
const OWN_ANCHOR_MS: u64 = 30 * 86_400_000;
const ANCHOR_MS: u64 = 600_000;

/// One server, for readers.
#[derive(Clone, Copy)]
pub(super) struct ReadSource<'a> {
    pub(super) link: &'a RedisLink,
    pub(super) membership: &'a Membership,
}

impl ReadSource<'_> {
    /// Reads what follows `after`, within the limits.
    pub(super) async fn page(
        self,
        topic: &Topic,
        after: StreamId,
        limits: ReadLimits,
    ) -> Result<StreamPage, StreamUnavailable> {
        let key = self.link.keys().stream(topic);
        let mut reader = PooledReader::open(self.link, RedisCommand::Read).await?;
        let (mut read, mut end, mut first) = (Forward::new(after, limits), None, true);
        while let Some((cursor, count)) = read.next() {
            let mut pipe = redis::pipe();
            if first {
                // Before the entries: what is added meanwhile is then among them.
                pipe.add_command(self.ends(&[&key]));
            }
            pipe.cmd("XRANGE").arg(&key).arg(format!("({cursor}")).arg("+").arg("COUNT").arg(count.saturating_add(1));
            let replies;
            (reader, replies) = reader.ask(&pipe).await?;
            let mut replies = replies.into_iter();
            if first {
                let found = self.found(replies.next())?.into_iter().next();
                end = found.transpose().map_err(|error| StreamUnavailable(error.to_string().into()))?.flatten();
                first = false;
            }
            read.add(messages(replies.next(), self.link, topic)?);
        }
        Ok(read.finish(end))
    }

    /// Reads the newest messages, within the limits.
    pub(super) async fn newest(self, topic: &Topic, limits: ReadLimits) -> Result<Newest, StreamUnavailable> {
        let key = self.link.keys().stream(topic);
        let mut reader = PooledReader::open(self.link, RedisCommand::Read).await?;
        let (mut read, mut first) = (Backward::new(limits), true);
        while let Some((before, count)) = read.next() {
            let end = before.map_or("+".to_owned(), |before| format!("({before}"));
            let mut pipe = redis::pipe();
            if first {
                pipe.add_command(self.ends(&[]));
            }
            pipe.cmd("XREVRANGE").arg(&key).arg(end).arg("-").arg("COUNT").arg(count);
            let replies;
            (reader, replies) = reader.ask(&pipe).await?;
            let mut replies = replies.into_iter();
            if std::mem::take(&mut first) {
                self.found(replies.next())?;
            }
            read.add(messages(replies.next(), self.link, topic)?);
        }
        Ok(read.finish())
    }

    /// The last ids of many streams of one server, in the order of `topics`; `None` if there is no stream. A failure
    /// affects only its own stream.
    pub(super) async fn heads(
        self,
        topics: &[&Topic],
    ) -> Result<Vec<Result<Option<StreamId>, HeadError>>, StreamUnavailable> {
        let mut heads = Vec::with_capacity(topics.len());
        let mut reader = PooledReader::open(self.link, RedisCommand::Compare).await?;
        for chunk in topics.chunks(HEADS_CHUNK) {
            let keys: Vec<_> = chunk.iter().map(|topic| self.link.keys().stream(topic)).collect();
            let mut pipe = Pipeline::new();
            pipe.add_command(self.ends(&keys.iter().collect::<Vec<_>>()));
            let replies;
            (reader, replies) = reader.ask(&pipe).await?;
            heads.extend(self.found(replies.into_iter().next())?);
        }
        Ok(heads)
    }

    /// Gives topics without a stream unique positions, and extends the lifetime of existing ones. Returns the last ids
    /// of their streams, which another replica may have started.
    pub(super) async fn anchors(self, topics: &[&Topic]) -> Vec<Result<StreamId, StreamUnavailable>> {
        let mut anchors = Vec::with_capacity(topics.len());
        for chunk in topics.chunks(HEADS_CHUNK) {
            match self.anchor(chunk).await {
                Ok(answers) => anchors.extend(answers),
                Err(error) => anchors.extend(chunk.iter().map(|_| Err(error.clone()))),
            }
        }
        anchors
    }

    async fn anchor(self, topics: &[&Topic]) -> Result<Vec<Result<StreamId, StreamUnavailable>>, StreamUnavailable> {
        let keys = self.link.keys();
        let mut command = script::ANCHOR.call(topics.len() + 1);
        command.arg(keys.generation());
        for topic in topics {
            command.arg(keys.stream(topic));
        }
        let generation = self.membership.history().generation;
        command.arg(generation);
        for topic in topics {
            command.arg(if topic.owner().is_some() { OWN_ANCHOR_MS } else { ANCHOR_MS });
        }
        let mut pipe = Pipeline::new();
        pipe.add_command(command);
        let (_, replies) = PooledReader::open(self.link, RedisCommand::Compare).await?.ask(&pipe).await?;
        let answer = |value| match value {
            Value::BulkString(id) => {
                let id = id_of(&id).ok_or_else(strange)?;
                // Also the epoch of the first entry after it.
                self.membership.gave(generation, id.next().epoch);
                Ok(id)
            }
            Value::ServerError(error) => Err(failed(self.link, &RedisFailure::of(&error.into()))),
            _ => Err(strange()),
        };
        match replies.into_iter().next() {
            Some(Value::Array(values)) if values.len() == topics.len() => Ok(values.into_iter().map(answer).collect()),
            Some(Value::ServerError(error)) => {
                let failure = RedisFailure::of(&error.into());
                self.membership.doubt(&failure);
                Err(failed(self.link, &failure))
            }
            _ => Err(strange()),
        }
    }

    /// Deletes the positions of topics without publications.
    pub(super) async fn forget(self, topics: &[&Topic]) -> Result<(), StreamUnavailable> {
        let mut command = script::FORGET.call(topics.len());
        for topic in topics {
            command.arg(self.link.keys().stream(topic));
        }
        let mut pipe = Pipeline::new();
        pipe.add_command(command);
        let (_, replies) = PooledReader::open(self.link, RedisCommand::Compare).await?.ask(&pipe).await?;
        match replies.into_iter().next() {
            Some(Value::ServerError(error)) => Err(failed(self.link, &RedisFailure::of(&error.into()))),
            _ => Ok(()),
        }
    }

    fn ends(self, keys: &[&String]) -> redis::Cmd {
        let mut command = script::ENDS.call(keys.len() + 1);
        command.arg(self.link.keys().generation());
        for key in keys {
            command.arg(key);
        }
        command
    }

    /// The response of `ends`, if it comes from the server that the replica is attached to.
    fn found(self, answer: Option<Value>) -> Result<Vec<Result<Option<StreamId>, HeadError>>, StreamUnavailable> {
        let values = match answer {
            Some(Value::Array(values)) => values,
            Some(Value::ServerError(error)) => return Err(failed(self.link, &RedisFailure::of(&error.into()))),
            _ => return Err(strange()),
        };
        let mut values = values.into_iter();
        let here = values.next().and_then(text);
        let known = match self.membership.history().generation {
            0 => String::new(),
            generation => generation.to_string(),
        };
        if here.as_ref() != Some(&known) {
            self.membership.wake();
            return Err(StreamUnavailable("redis is in another generation than this replica".into()));
        }
        Ok(values.map(|value| self.end(value)).collect())
    }

    fn end(self, value: Value) -> Result<Option<StreamId>, HeadError> {
        match value {
            Value::BulkString(id) if id.is_empty() => Ok(None),
            Value::BulkString(id) => {
                let id = id_of(&id).ok_or_else(strange)?;
                self.membership.saw(id.epoch);
                Ok(Some(id))
            }
            Value::ServerError(error) => {
                let no_stream = error.code() == RefusalKind::WrongType.code();
                let failure = RedisFailure::of(&error.into());
                let unavailable = failed(self.link, &failure);
                Err(if no_stream { HeadError::NoStream(unavailable.0) } else { unavailable.into() })
            }
            _ => Err(strange().into()),
        }
    }
}

fn strange() -> StreamUnavailable {
    StreamUnavailable("unexpected response from redis".into())
}

fn id_of(bytes: &[u8]) -> Option<StreamId> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// A connection of the pool, for all parts of one read.
struct PooledReader<'a> {
    link: &'a RedisLink,
    kind: RedisCommand,
    connection: PooledConnection,
}

impl<'a> PooledReader<'a> {
    async fn open(link: &'a RedisLink, kind: RedisCommand) -> Result<Self, StreamUnavailable> {
        let connection = link.pooled().await.map_err(|failure| failed(link, &failure))?;
        Ok(Self { link, kind, connection })
    }

    /// Runs a pipeline, keeping errors of single commands in place. Runs it again if the scripts had to be loaded
    /// first: all its commands are idempotent.
    async fn ask(self, pipe: &Pipeline) -> Result<(Self, Vec<Value>), StreamUnavailable> {
        let (reader, replies) = self.send(pipe).await?;
        if !replies.iter().any(script::is_unknown) {
            return Ok((reader, replies));
        }
        let (reader, _) = reader.send(&script::load()).await?;
        reader.send(pipe).await
    }

    async fn send(self, pipe: &Pipeline) -> Result<(Self, Vec<Value>), StreamUnavailable> {
        let Self { link, kind, mut connection } = self;
        let timer = link.time(kind);
        let answer = connection.send_packed_commands(pipe, 0, pipe.len()).await;
        drop(timer);
        match answer {
            Ok(replies) => Ok((Self { link, kind, connection }, replies)),
            Err(error) => {
                // The next reader must not receive a late response: the connection is not returned to the pool.
                connection.discard();
                Err(failed(link, &RedisFailure::of(&error)))
            }
        }
    }
}

fn failed(link: &RedisLink, failure: &RedisFailure) -> StreamUnavailable {
    link.report(failure);
    StreamUnavailable(failure.to_string().into())
}

/// Decodes the response to a range read of a topic's stream.
fn messages(entries: Option<Value>, link: &RedisLink, topic: &Topic) -> Result<Vec<Arc<Message>>, StreamUnavailable> {
    match entries {
        Some(Value::Array(entries)) => Ok(entries.into_iter().filter_map(message).map(Arc::new).collect()),
        Some(Value::ServerError(error)) => {
            let failure = RedisFailure::of(&error.into());
            if !failure.is_passing() {
                tracing::debug!(topic = topic.as_str(), %failure, "cannot read a stream");
            }
            Err(failed(link, &failure))
        }
        _ => Err(StreamUnavailable("unexpected response to a range read".into())),
    }
}

/// Decodes one entry of a range. `None`: not an entry.
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
