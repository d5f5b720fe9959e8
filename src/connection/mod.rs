//! One client's connection: accept, upgrade, read, act, end.
//!
//! `accept` takes TCP connections and speaks HTTP; `upgrade` turns a request into a WebSocket, or refuses it with its
//! code; `run` is the life of a connection; `perform` does what the session decided; `subscriptions` brings channels to
//! the client; `ingest` speaks the envelope dialect. `pulse` decides heartbeats and time-outs (pure), `link` is what the
//! rest of the replica holds of a connection. Writing is the outbox's part: nothing here writes to a socket.

pub mod accept;
pub mod address;
pub mod drain;
pub mod frame;
pub mod gateway;
pub mod handshake;
mod ingest;
pub mod link;
mod perform;
mod problem;
pub mod pulse;
mod query;
mod run;
mod subscriptions;
pub mod upgrade;
