//! One client's connection, from accept to cleanup. Never writes to a socket: the outbox does.
//!
//! - Opening: `accept` accepts TCP connections and serves HTTP on them (`http_stream`; `turns` limits the time that a
//!   client may take), from `spares` if no descriptor is left for clients; `routes` maps paths to profiles; `upgrade`
//!   and `event_stream` (with `event_cursors`) turn a request into a WebSocket or Server-Sent Events. `handshake`
//!   checks the request; `admission` decides who is admitted, with `user_place` for the user's limit, `attempt` for the
//!   client's identity in logs and `refused` for refusals; `opening` creates the connection.
//! - Open: `task` sleeps and wakes, `wire` reads, `inbound` decodes, the session decides, `perform` executes (with
//!   `echo`, `history`, `ingest` and `subscriptions`), and `keep_alive` decides heartbeats and timeouts.
//! - Closing: `ending` cleans up, for every cause.
//! - For the rest of the replica: `replica` is what connections share, `handle` is one of them, `table` and `wheel`
//!   hold all of them, `drain` closes them, and `inquiry` reports them.

mod abort;
pub mod accept;
pub mod address;
mod admission;
pub mod attempt;
pub mod drain;
mod echo;
mod ended_users;
mod ending;
mod event_cursors;
mod event_stream;
pub mod handle;
pub mod handshake;
mod history;
mod http_stream;
mod inbound;
mod ingest;
pub mod inquiry;
pub mod keep_alive;
pub mod loopback;
pub mod malformed;
mod opening;
mod perform;
pub mod query;
mod refused;
pub mod replica;
pub mod routes;
pub mod socket_io;
mod spares;
mod state;
mod subscriptions;
pub mod table;
mod task;
mod turns;
pub mod upgrade;
mod user_place;
pub mod wheel;
