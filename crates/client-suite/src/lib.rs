//! A scripted gateway that tests clients in any language against the rules of `docs/client.md`.
//!
//! - `rules` and `scenarios` are what is played: each scenario belongs to a rule.
//! - `script` is what the gateway of a scenario does, `duties` what the client must do. Both act on a `stage`: one run
//!   of the client with everything that was `seen` of it.
//! - `program` is the client process; `http`, `socket` and `requests` are the gateway's side of its connections.
//! - `play` runs scenarios concurrently, each with its `suite` of runs, and reports failures with a `trace`.
//!
//! It shares the framing of `crates/wire` with the gateway, and nothing with any client, so that both cannot have the
//! same fault.
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

pub use play::{ScenarioOutcome, SuitePlan, play};
pub use rules::{ClientRule, RULES};
pub use scenarios::{SCENARIOS, Scenario};
pub use trace::ScenarioFailure;
