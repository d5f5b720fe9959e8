//! `tickgate serve`: one replica, from its configuration to its drain.

use std::{io::Write, path::PathBuf, sync::Arc, time::SystemTime};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, oneshot},
};

use super::{CommandFailure, greeting::greeting, settings::SettingsSources};
use crate::{
    app::{self, App, DrainPace, Reload},
    config::Config,
    descriptors,
    telemetry::{self, Logging},
};

/// The name of the signal that Ctrl+C sends.
const INTERRUPT: &str = "SIGINT";

const EXAMPLES: &str = "\
Examples:
  tickgate serve                  a trial: loopback, memory, a synthetic market
  tickgate serve --redis redis://127.0.0.1
                                  over Redis: any number, each on its own ports
  tickgate serve --config a.toml  for production; see config/production.toml

Without a key to verify tokens it is in development mode and listens on loopback
only; Ctrl+C then ends it at once. Otherwise it drains: it is not ready at once,
then closes connections in waves; a second signal ends it. SIGHUP reads secrets,
keys, certificates and the log filter again, as does a change of their files.";

/// Run a replica (the default command)
#[derive(Debug, Default, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    settings: SettingsSources,
    /// Append what the exchange of feeds.binance sends to a file, for sim-exchange --replay
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<(), CommandFailure> {
    let (sources, since) = (args.settings.sources(), SystemTime::now());
    let (mut config, effective) = app::load(&sources)?;
    if args.record.is_some() && config.feeds.binance.is_none() {
        return Err(CommandFailure::usage("--record requires feeds.binance.enabled = \"on\""));
    }
    config.feeds.record.clone_from(&args.record);
    let logging =
        telemetry::start(&config.log, &config.server.name).map_err(|error| CommandFailure::new(error.to_string()))?;
    if let Err(error) = descriptors::raise_limit() {
        tracing::warn!(%error, "the limit of file descriptors cannot be raised");
    }
    if !config.development
        && let Err(error) = keep_memory_private()
    {
        tracing::warn!(%error, "other processes of this user may read the memory of this one");
    }
    #[cfg(feature = "simulation")]
    work_with_deliberate_defect()?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if config.server.workers > 0 {
        runtime.worker_threads(config.server.workers);
    }
    let runtime =
        runtime.enable_all().build().map_err(|error| CommandFailure::new(format!("cannot start: {error}")))?;
    let reload = Reload::new(sources, effective, since).logging(logging.filter());
    runtime.block_on(serve(config, &logging, reload))
}

/// No core dumps, and no debugger of the same user: memory holds tokens and keys.
fn keep_memory_private() -> std::io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

/// For the suite that verifies that it detects defects.
#[cfg(feature = "simulation")]
fn work_with_deliberate_defect() -> Result<(), CommandFailure> {
    use crate::defect::{Defect, everywhere};
    if let Some(name) = crate::config::deliberate_defect() {
        let defect = Defect::named(&name).ok_or_else(|| CommandFailure::usage(format!("unknown defect {name}")))?;
        tracing::error!(?defect, "running with a deliberate defect");
        everywhere(defect);
    }
    Ok(())
}

async fn serve(config: Config, logging: &Logging, reload: Reload) -> Result<(), CommandFailure> {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let mut signals =
        Signals::listen().map_err(|error| CommandFailure::new(format!("cannot listen for signals: {error}")))?;
    let shown = config.clone();
    let app = App::build(config).await.map_err(|error| CommandFailure::new(format!("cannot start: {error}")))?;
    let app = app.reloading(reload.at(signals.hung_up.clone()));
    logging.count_dropped(&app.metrics().log_lines_dropped_total);
    if shown.development {
        let program = std::env::args().next().unwrap_or_else(|| "tickgate".into());
        // A closed standard output is no reason to stop.
        let _ = writeln!(std::io::stdout(), "{}", greeting(&shown, app.addresses(), &program, SystemTime::now()));
    }
    let (end, ended) = oneshot::channel();
    // An error means that the sender was dropped, which also ends the replica.
    let run = app.run(async move { ended.await.unwrap_or(DrainPace::Configured) });
    let drain = |name| {
        let at_once = shown.development && name == INTERRUPT;
        // An error means that the replica has ended by itself.
        let _ = end.send(if at_once { DrainPace::AtOnce } else { DrainPace::Configured });
    };
    tokio::select! {
        outcome = run => outcome.map_err(|broken| CommandFailure::new(broken.to_string())),
        name = signals.received_twice(drain) => Err(CommandFailure::new(format!("stopped at once by a second {name}, not drained"))),
    }
}

/// The signals that a replica handles. Two stop it; unhandled, the others would end the process without a drain.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user_1: Signal,
    user_2: Signal,
    /// Notified by SIGHUP.
    hung_up: Arc<Notify>,
}

impl Signals {
    /// Handles signals from now on, also while the replica is being built.
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
            hung_up: Arc::default(),
        })
    }

    /// Calls `drain` with the first signal's name and resolves at the second one.
    async fn received_twice(&mut self, drain: impl FnOnce(&'static str)) -> &'static str {
        let name = self.next().await;
        tracing::info!(signal = name, "shutting down");
        drain(name);
        self.next().await
    }

    /// The next signal that stops the replica.
    async fn next(&mut self) -> &'static str {
        loop {
            let ignored = tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return INTERRUPT,
                _ = self.hang_up.recv() => {
                    self.hung_up.notify_one();
                    continue;
                }
                _ = self.user_1.recv() => "SIGUSR1",
                _ = self.user_2.recv() => "SIGUSR2",
            };
            tracing::warn!(signal = ignored, "signal ignored");
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{DumpableBehavior, dumpable_behavior};

    #[test]
    fn memory_cannot_be_dumped() {
        super::keep_memory_private().unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
