//! One client's connection: accept, upgrade, read, act, end.
//!
//! `accept` takes TCP connections and speaks HTTP; `admission` decides who comes in; `upgrade` turns a request into a
//! WebSocket, `event_stream` into Server-Sent Events; `wire` reads and writes it; `run` is the life of a connection;
//! `perform` does what the session decided, `history` answers with a page of a stream; `subscriptions` brings channels to
//! the client; `ingest` speaks the envelope dialect. `pulse` decides heartbeats and time-outs (pure), `link` is what the
//! rest of the replica holds of a connection. Writing is the outbox's part: nothing here writes to a socket.

pub mod accept;
pub mod address;
mod admission;
pub mod drain;
mod ended_users;
mod event_stream;
pub mod gateway;
pub mod handshake;
mod history;
mod ingest;
pub mod link;
mod perform;
mod problem;
pub mod pulse;
mod query;
mod run;
mod subscriptions;
pub mod upgrade;
pub mod wire;
