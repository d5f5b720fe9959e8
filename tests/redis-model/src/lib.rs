//! A model of one Redis server: the commands that the gateway, its Lua scripts and its tests use, and those exactly.
//!
//! A [`Server`] takes the bytes of a connection and gives bytes back. Its clock is set from outside, nothing in it waits,
//! and the same calls always give the same answers, so a simulation can drive thousands of them. What was written is kept
//! as a [`History`]: a server that crashes, lags or is restored has a prefix of one. The real Lua scripts run in a real
//! Lua 5.1. `tests/conformance.rs` sends the same random commands to the model and to a `redis-server`.
//!
//! Left out, because nothing here uses it: transactions, blocking commands, consumer groups, Cluster, modules.

mod commands;
mod core;
mod data;
mod number;
mod resp;
mod script;
mod server;
mod stream;

pub use self::{
    core::{Client, ClientId, Effect, History, Identity, Role},
    resp::{Reply, read_command, read_reply},
    script::Engine,
    server::{Refusals, Server},
    stream::EntryId,
};
