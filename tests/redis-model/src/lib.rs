//! A model of one Redis server: exactly the commands that the gateway, its Lua scripts and its tests use.
//!
//! A [`RedisModel`] takes the bytes of a connection and returns bytes. Its clock is set from outside, nothing in it waits,
//! and the same calls always give the same results, so a simulation can drive thousands of them. Everything written is
//! kept as a [`WriteHistory`]: a server that crashes, lags or is restored has a prefix of one. The real Lua scripts run in a
//! real Lua 5.1. `tests/conformance.rs` sends the same random commands to the model and to a `redis-server`.
//!
//! Not modeled, because nothing here uses it: transactions, blocking commands, consumer groups, Cluster, modules.
#![warn(missing_docs)]

mod commands;
mod core;
mod data;
mod number;
mod resp;
mod script;
mod server;
mod stream;

pub use self::{
    core::{ClientId, ModelConnection, ReplicationRole, ServerIdentity, WriteHistory, WrittenEffect},
    resp::{RespReply, read_command, read_reply},
    script::ScriptEngine,
    server::{RedisModel, Refusals},
    stream::EntryId,
};
