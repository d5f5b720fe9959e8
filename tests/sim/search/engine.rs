//! An engine that publishes with the script, as described in `docs/publishing-from-redis.md`.

use std::collections::BTreeMap;

use tickgate::redis_link::Keys;
use tickgate_redis_model::{RedisModel, RespReply};
use tickgate_wire::model::{Class, StreamId};

use crate::gateway::{PREFIX, RETAIN_MAX, SimPublishOutcome, TOPICS, is_private, stream, stream_of};

const PUBLISH: &str = include_str!("../../../src/backplane/redis/scripts/publish.lua");

/// The state of an engine.
#[derive(Debug, Default)]
pub struct EngineState {
    generation: Option<String>,
    epochs: BTreeMap<usize, u64>,
}

impl EngineState {
    /// Publishes to the server at its address; reads the generation first if the engine has none, or after a refusal.
    pub fn publish(
        &mut self,
        server: &mut RedisModel,
        (at, number): (usize, usize),
        is_odd: bool,
    ) -> SimPublishOutcome {
        let (gen_key, stream, own) = (Keys::new(PREFIX).generation(), stream(at), stream_of(at));
        let payload = if is_odd { "not JSON".to_owned() } else { format!("{{\"n\":{number}}}") };
        let keep = if TOPICS[at].1 == Class::State { 1 } else { RETAIN_MAX }.to_string();
        let channel = if is_private(at) { TOPICS[at].0 } else { "-" };
        for _ in 0..2 {
            if self.generation.is_none() {
                self.epochs.clear();
                self.generation = text_of(&server.run(&["HGET", &gen_key, "open"]));
            }
            let Some(generation) = &self.generation else { return SimPublishOutcome::Refused };
            let epoch = self.epochs.get(&own).copied().unwrap_or(0).to_string();
            let call = ["EVAL", PUBLISH, "2", &gen_key, stream, generation, &payload, &keep, &epoch, "0", channel, "1"];
            let Some(id) = text_of(&server.run(&call)) else {
                // STALE, or another refusal: nothing was stored in either case.
                self.generation = None;
                continue;
            };
            let id: StreamId = id.parse().expect("an id");
            self.epochs.insert(own, id.epoch);
            return SimPublishOutcome::Acknowledged(id);
        }
        SimPublishOutcome::Refused
    }
}

fn text_of(reply: &RespReply) -> Option<String> {
    match reply {
        RespReply::Bulk(text) => Some(String::from_utf8_lossy(text).into_owned()),
        _ => None,
    }
}
