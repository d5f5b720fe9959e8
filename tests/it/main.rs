//! All integration tests in one binary: one file per capability, real parts, no sleeps.
#![allow(unreachable_pub, reason = "a test binary exports nothing; `pub` means shared between its files")]
#![allow(clippy::unwrap_used, reason = "what is not there fails the test, as it should")]

mod admin;
mod api_keys;
mod bad_input;
mod check;
mod check_config;
mod client;
mod conformance;
mod conformance_registry;
mod connections;
mod counts;
mod demo;
mod descriptors;
mod events;
mod feeds;
mod ghosts;
mod history;
mod http_connections;
mod http_outcomes;
mod ingest;
mod key_sets;
mod leftovers;
mod limits;
mod log_lines;
mod market;
mod names;
mod problems;
mod procedures;
mod processes;
mod publish_script;
mod publishing_from_redis;
mod redis_faults;
mod redis_login;
mod redis_losses;
mod redis_refusals;
mod redis_rows;
mod redis_tls;
mod reload;
mod replicas;
mod resume;
mod runs;
mod sentinel;
mod slow_readers;
mod sse;
mod status;
mod strangers;
mod tls;
mod trading;
mod transcripts;
mod wire_contract;

use tickgate_kit as support;
