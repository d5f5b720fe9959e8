//! Tickgate: the real-time gateway for trading platforms.
//!
//! `publishers, feeds → replica ⇄ Redis ⇄ replica → WebSocket clients`
//!
//! # The modules, in the order in which a message passes them
//!
//! | module | owns |
//! |---|---|
//! | [`connection`] | one client's socket: accept, read, decode, execute, clean up |
//! | [`session`] | a client's rights and limits; pure |
//! | [`hub`] | topics and subscribers of this replica: order, hole detection, fan-out, outboxes |
//! | [`publisher`] | the only entry point for publications |
//! | [`backplane`] | the message path between replicas, over memory or Redis |
//! | [`registry`] | which sessions are connected to which replica, tracked by leases |
//! | [`redis_link`] | the supervised links to Redis, and every key and channel name |
//! | [`history`] | the generations of a dataset, and what a step across them means; pure |
//! | [`auth`] | tokens, keys, rights |
//! | [`feeds`] | market data, from an exchange or generated |
//! | [`api`] | HTTP: publish, sessions, topics, status, probes |
//! | [`app`] | the composition root: builds everything, runs it, drains it |
//!
//! ARCHITECTURE.md has the complete list, with the invariants.

#![warn(missing_docs)]

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
