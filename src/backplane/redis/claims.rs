//! Searches a dataset for acknowledged ids. Never decides what follows from missing ones.

use std::collections::HashMap;

use redis::{Pipeline, Value, aio::MultiplexedConnection};
use tickgate_wire::model::{StreamId, Topic};

use super::arrival;
use crate::redis_link::{RedisFailure, RedisLink};

/// Number of ids per pipeline: takes about 2 ms of the server.
const CHUNK: usize = 256;

/// Which of the ids are missing from the dataset's history, and how many publications were lost with them.
pub(super) async fn lost(
    link: &RedisLink,
    connection: &mut MultiplexedConnection,
    claims: Vec<(Topic, StreamId)>,
) -> Result<Vec<(String, StreamId, u64)>, RedisFailure> {
    let mut lost = Vec::new();
    for chunk in claims.chunks(CHUNK) {
        let keys: Vec<_> = chunk.iter().map(|(topic, _)| link.keys().stream(topic)).collect();
        let mut pipe = Pipeline::with_capacity(chunk.len());
        for (key, (_, id)) in keys.iter().zip(chunk) {
            pipe.cmd("XRANGE").arg(key).arg(id.to_string()).arg("+").arg("COUNT").arg(1);
        }
        let next = connection.send_packed_commands(&pipe, 0, chunk.len()).await?;
        let mut ends = HashMap::new();
        let behind: Vec<_> = (0..chunk.len()).filter(|at| is_empty(&next[*at])).collect();
        if !behind.is_empty() {
            let mut pipe = Pipeline::with_capacity(behind.len());
            for at in &behind {
                pipe.cmd("XINFO").arg("STREAM").arg(&keys[*at]);
            }
            let infos = connection.send_packed_commands(&pipe, 0, behind.len()).await?;
            ends.extend(behind.into_iter().zip(infos));
        }
        for (at, (topic, id)) in chunk.iter().enumerate() {
            match &next[at] {
                // The stream was lost with an unknown number of entries.
                Value::ServerError(error) if error.code() == "WRONGTYPE" => {
                    lost.push((topic.as_str().to_owned(), *id, id.seq + 1));
                    continue;
                }
                Value::ServerError(error) => return Err(RedisFailure::of(&error.clone().into())),
                _ => {}
            }
            let had = match ends.get(&at) {
                Some(info) => last_id(info).is_some_and(|last| *id <= last),
                None => first(&next[at]).is_none_or(|(found, prev)| {
                    found == *id || prev.is_none_or(|prev| prev == StreamId::ZERO || prev >= *id)
                }),
            };
            if !had {
                let left =
                    redis::cmd("XREVRANGE").arg(&keys[at]).arg(id.to_string()).arg("-").arg("COUNT").arg(1).to_owned();
                let left: Value = left.query_async(connection).await?;
                let left = first(&left).map_or(StreamId::ZERO, |(left, _)| left);
                let count = StreamId::missing_between(left, *id).unwrap_or(id.seq) + 1;
                lost.push((topic.as_str().to_owned(), *id, count));
            }
        }
    }
    Ok(lost)
}

fn is_empty(range: &Value) -> bool {
    matches!(range, Value::Array(entries) if entries.is_empty())
}

/// The id of the first entry, and its recorded predecessor.
fn first(range: &Value) -> Option<(StreamId, Option<StreamId>)> {
    let Value::Array(entries) = range else { return None };
    let Value::Array(parts) = entries.first()? else { return None };
    let [Value::BulkString(id), Value::Array(fields)] = &parts[..] else { return None };
    let fields =
        fields.iter().map(|field| if let Value::BulkString(bytes) = field { bytes.clone() } else { Vec::new() });
    let message = arrival::from_entry(id, fields)?;
    Some((message.id?, message.prev))
}

fn last_id(info: &Value) -> Option<StreamId> {
    let find = |key: &Value, value: &Value| match (key, value) {
        (Value::BulkString(key), Value::BulkString(id)) if key == b"last-generated-id" => {
            std::str::from_utf8(id).ok()?.parse().ok()
        }
        _ => None,
    };
    match info {
        Value::Map(pairs) => pairs.iter().find_map(|(key, value)| find(key, value)),
        Value::Array(flat) => flat.chunks_exact(2).find_map(|pair| find(&pair[0], &pair[1])),
        _ => None,
    }
}
