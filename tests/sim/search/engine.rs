//! An engine that publishes by the scripts, as `docs/publishing-from-redis.md` tells it to.

use std::collections::BTreeMap;

use tickgate::redis_link::Keys;
use tickgate_redis_model::{Reply, Server};
use tickgate_wire::model::{Class, StreamId};

use crate::gateway::{Outcome, PREFIX, RETAIN_MAX, RETAIN_TTL, TOPICS, topic};

const GENERATION: &str = include_str!("../../../src/redis_link/scripts/generation.lua");
const PUBLISH: &str = include_str!("../../../src/backplane/redis/scripts/publish.lua");

/// What an engine keeps.
#[derive(Debug, Default)]
pub struct Engine {
    generation: u64,
    epochs: BTreeMap<usize, u64>,
    /// The process of the server that its connection leads to.
    connected: Option<String>,
}

impl Engine {
    /// Publishes to the server that its address leads to; connects anew where that is another process.
    pub fn publish(&mut self, server: &mut Server, (at, number): (usize, usize), is_odd: bool) -> Outcome {
        let run_id = server.identity().run_id;
        if self.connected.as_ref() != Some(&run_id) {
            let known = self.epochs.values().copied().max().unwrap_or(0).max(self.generation).to_string();
            let key = Keys::new(PREFIX).generation();
            let Some(generation) = number_of(&server.run(&["EVAL", GENERATION, "1", &key, &run_id, &known])) else {
                return Outcome::Refused;
            };
            self.generation = self.generation.max(generation);
            self.connected = Some(run_id);
        }
        let epoch = self.generation.max(self.epochs.get(&at).copied().unwrap_or(0)).to_string();
        let key = Keys::new(PREFIX).stream(&topic(at));
        let payload = if is_odd { "not JSON".to_owned() } else { format!("{{\"n\":{number}}}") };
        let keep = if TOPICS[at].1 == Class::State { 1 } else { RETAIN_MAX }.to_string();
        let channel = if at == 0 { TOPICS[at].0 } else { "-" };
        let life = RETAIN_TTL.as_secs().to_string();
        match server.run(&["EVAL", PUBLISH, "1", &key, &payload, &keep, &epoch, "0", channel, &life]) {
            Reply::Bulk(id) => {
                let id: StreamId = String::from_utf8_lossy(&id).parse().expect("an id");
                let known = self.epochs.entry(at).or_default();
                *known = id.epoch.max(*known);
                Outcome::Acknowledged(id)
            }
            _ => Outcome::Refused,
        }
    }
}

fn number_of(reply: &Reply) -> Option<u64> {
    match reply {
        Reply::Bulk(text) => String::from_utf8_lossy(text).parse().ok(),
        _ => None,
    }
}
