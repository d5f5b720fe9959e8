//! Tickgate: the real-time gateway for trading platforms.
//!
//! `publishers, feeds → replica ⇄ Redis ⇄ replica → WebSocket clients`
//!
//! # The map, in the order a message meets the modules
//!
//! | module | stage | owns |
//! |---|---|---|
//! | [`connection`] | 1 socket | accept, read, write, heartbeat |
//! | [`session`] | 3 session | a client's rights and limits; pure |
//! | [`hub`] | 4 topics | subscribers of this replica, fan-out, outboxes, positions |
//! | [`publisher`] | 5 | the only door for publications |
//! | [`backplane`] | 6 replicas | publish, follow, read back, over memory or Redis |
//! | [`registry`] | who is connected where | leases, records, control messages |
//! | [`auth`] | | tokens, rights |
//! | [`feeds`] | | market data made inside the gateway |
//! | [`api`] | | HTTP: publish, sessions, status |

pub mod api;
pub mod app;
pub mod audit;
pub mod auth;
pub mod backplane;
pub mod bucket;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connection;
pub mod defect;
pub mod descriptors;
pub mod fairness;
pub mod feeds;
pub mod history;
pub mod hub;
pub mod log_limit;
pub mod metrics;
pub mod problem;
pub mod publisher;
pub mod redis_link;
pub mod registry;
pub mod session;
pub mod tasks;
pub mod telemetry;
pub mod tls;
