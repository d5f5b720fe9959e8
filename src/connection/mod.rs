//! One client's connection, from accept to clean-up. Never writes to a socket: that is the outbox's part.
//!
//! - On the way in: `accept` takes TCP connections and serves HTTP on them (`http_stream`; `turns` says how long a
//!   client may take), over `spares` when no
//!   descriptor is left for clients; `routes` maps paths to profiles; `upgrade` and
//!   `event_stream` (with `event_cursors`) turn a request into a WebSocket or into Server-Sent Events. `handshake` checks the request,
//!   `admission` decides who is admitted, with `user_place` among the user's connections, `attempt` is who asks, `refused`
//!   who is turned away, `opening` makes the connection.
//! - While it is open: `task` sleeps and wakes, `wire` reads, `inbound` decodes, the session decides, `perform` acts (with
//!   `echo`, `history`, `ingest` and `subscriptions`), `keep_alive` decides heartbeats and time-outs.
//! - `ending` cleans up, whatever the reason.
//! - For the rest of the replica: `replica` is what connections share, `handle` is one of them, `table` and `wheel` hold
//!   all of them, `drain` ends them, and `inquiry` answers about them.

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
mod hang_up;
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
mod spares;
mod state;
mod subscriptions;
pub mod table;
mod task;
mod turns;
pub mod upgrade;
mod user_place;
pub mod wheel;
pub mod wire;
