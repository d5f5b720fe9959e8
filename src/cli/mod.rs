//! The command line: one file per verb. Contains nothing that a replica does while it runs.

mod check;
mod check_config;
mod demo;
mod greeting;
mod healthcheck;
mod publish;
mod serve;
mod settings;
mod tail;
mod token;

use std::{io::Write, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::config::Problems;

const EXAMPLES: &str = "\
Examples:
  tickgate                              a gateway on 127.0.0.1:8000, to try it out
  tickgate tail ticker:BTCUSDT          watch a price
  tickgate check-config --config a.toml print all problems, or the settings in force
  tickgate serve --config a.toml        a replica for production
  tickgate check --config a.toml        test a running gateway end to end
  tickgate demo kill-a-replica          kill a replica and Redis, count what is lost

Settings come from the shipped defaults, a file, the environment
(TICKGATE__SERVER__LISTEN), and flags; the later one counts. Every key:
docs/configuration.md, or `tickgate check-config`.";

/// The real-time gateway for trading platforms: WebSocket replicas over Redis that are never silently wrong.
#[derive(Debug, Parser)]
#[command(name = "tickgate", version, after_help = EXAMPLES, disable_help_subcommand = true)]
struct Cli {
    /// Default: serve.
    #[command(subcommand)]
    verb: Option<Verb>,
}

/// A new verb requires a new file in this folder, a line here and a line in [`Verb::run`].
#[derive(Debug, Subcommand)]
enum Verb {
    Serve(serve::Args),
    CheckConfig(check_config::Args),
    Token(token::Args),
    Publish(publish::Args),
    Tail(tail::Args),
    Check(check::Args),
    Healthcheck(healthcheck::Args),
    Demo(demo::Args),
}

impl Verb {
    fn run(self) -> Result<(), CommandFailure> {
        match self {
            Self::Serve(args) => serve::run(&args),
            Self::CheckConfig(args) => block_on(check_config::run(args)),
            Self::Token(args) => block_on(token::run(args)),
            Self::Publish(args) => block_on(publish::run(args)),
            Self::Tail(args) => block_on(tail::run(args)),
            Self::Check(args) => block_on(check::run(args)),
            Self::Healthcheck(args) => block_on(healthcheck::run(args)),
            Self::Demo(args) => block_on(demo::run(args)),
        }
    }
}

/// Why a verb failed: a sentence for people, and the exit code.
#[derive(Debug, PartialEq, Eq)]
struct CommandFailure {
    text: String,
    code: u8,
}

impl CommandFailure {
    /// A failure during execution: exit code 1.
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: 1 }
    }

    /// An impossible request: exit code 2, as for invalid flags.
    fn usage(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: 2 }
    }
}

/// A request that the gateway cannot process is a usage error; anything else is a failure during execution.
impl From<tickgate_client::Error> for CommandFailure {
    fn from(error: tickgate_client::Error) -> Self {
        match error {
            tickgate_client::Error::Invalid(text) => Self::usage(text),
            error => Self::new(error.to_string()),
        }
    }
}

impl From<Problems> for CommandFailure {
    fn from(problems: Problems) -> Self {
        Self::usage(problems.to_string())
    }
}

/// Runs the verb in this process's arguments and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let verb = Cli::parse().verb.unwrap_or_else(|| Verb::Serve(serve::Args::default()));
    match verb.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(CommandFailure { text, code }) => {
            // The exit code matters even if the text cannot be written.
            let _ = writeln!(std::io::stderr(), "tickgate: {text}");
            ExitCode::from(code)
        }
    }
}

/// Runs a client verb on this thread.
fn block_on(verb: impl Future<Output = Result<(), CommandFailure>>) -> Result<(), CommandFailure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| CommandFailure::new(format!("cannot start: {error}")))?.block_on(verb)
}

/// Prints a line. A closed reader ends the program without an error.
fn print(line: &str) -> Result<(), CommandFailure> {
    use std::io::{ErrorKind, Write};
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(CommandFailure::new(format!("cannot write: {error}"))),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_verb_has_examples() {
        let command = Cli::command();
        command.clone().debug_assert();
        for verb in command.get_subcommands() {
            assert!(verb.get_about().is_some(), "{} says what it does", verb.get_name());
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("tickgate {}", verb.get_name())), "{} shows an example", verb.get_name());
            let wide = help.lines().find(|line| line.chars().count() > 84);
            assert_eq!(wide, None, "examples of {} fit a terminal", verb.get_name());
        }
    }

    #[test]
    fn the_reference_names_the_flags_of_serve() {
        let docs = include_str!("../../docs/configuration.md");
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        for flag in serve.get_arguments().filter_map(clap::Arg::get_long).filter(|flag| *flag != "help") {
            assert!(docs.contains(&format!("--{flag}")), "--{flag}");
        }
    }
}
