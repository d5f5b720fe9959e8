//! A scripted gateway that plays what a client has to master, for clients in any language.
//!
//! - `rules` and `scenarios` are what is played: each scenario belongs to a rule of `docs/client.md`.
//! - `script` is what the gateway of a scenario does, `duties` what the client has to do, over a `stage`: one run of the
//!   client with everything `seen` of it.
//! - `program` is the client, a process; `http`, `socket` and `requests` are the gateway's side of its connections.
//! - `play` runs scenarios side by side, each with its `suite` of runs, and reports the faults with a `trace`.
//!
//! It shares the framing of `crates/wire` with the gateway, and nothing with any client: it must not be right for the
//! reason for which a client is.
#![warn(missing_docs)]

mod duties;
mod http;
mod play;
mod program;
mod requests;
mod rules;
mod scenarios;
mod script;
mod seen;
mod socket;
mod stage;
mod suite;
mod trace;

pub use play::{Outcome, Plan, play};
pub use rules::{RULES, Rule};
pub use scenarios::{SCENARIOS, Scenario};
pub use trace::Fault;
