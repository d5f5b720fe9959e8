//! `tickgate-bench`: measures the gateway on this machine with a load generator that uses little CPU itself.
//!
//! Without further flags it starts everything that it measures (a new gateway and Redis for every run, the bare-send
//! server) and stops it again. With `--target` it measures any WebSocket server with a description file. Does not use
//! the gateway's own client: the load has its own poll loop, so that no client is part of the measurement.

mod arrival;
mod client;
mod clock;
mod figures;
mod latency;
mod limit;
mod line;
mod load;
mod measure;
mod observe;
mod plan;
mod publish;
mod redis_publish;
mod stage;
mod stamp;
mod tally;
mod target;
mod token;
mod workloads;

use std::{io, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Parser;
use serde_json::json;
use thiserror::Error;

use figures::{RunFigures, WorkloadRuns};
use stage::BenchStage;
use target::TargetServer;
use workloads::{WORKLOADS, Workload};

const EXAMPLES: &str = "\
Examples:
  tickgate-bench --list                 what can be measured
  tickgate-bench --runs 1 --seconds 2   a quick look at this machine";

/// Measure the gateway on this machine, or another WebSocket server.
#[derive(Clone, Debug, Parser)]
#[command(name = "tickgate-bench", version, after_help = EXAMPLES)]
struct Args {
    /// Workloads to run; default: all.
    workloads: Vec<String>,
    /// Print the workloads and exit.
    #[arg(long)]
    list: bool,
    /// Number of runs per workload; the median is reported.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Seconds of measurement per workload, after warming up.
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// Size of a published JSON object, in bytes.
    #[arg(long, default_value_t = 200)]
    payload_bytes: usize,
    /// Core for the gateway.
    #[arg(long)]
    server_cpu: Option<usize>,
    /// Core for the load generator.
    #[arg(long)]
    load_cpu: Option<usize>,
    /// Core for Redis; default: that of the load generator.
    #[arg(long)]
    redis_cpu: Option<usize>,
    /// The gateway to measure; default: `tickgate` in the same directory as this program.
    #[arg(long, value_name = "PROGRAM")]
    gateway: Option<PathBuf>,
    /// Measure the gateway without Redis.
    #[arg(long)]
    memory: bool,
    /// Also write all figures as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Description of another server, which is already running.
    #[arg(long, value_name = "FILE", requires_all = ["sockets", "publish"])]
    target: Option<PathBuf>,
    /// Address of its sockets.
    #[arg(long, value_name = "HOST:PORT")]
    sockets: Option<String>,
    /// Address of its publish endpoint.
    #[arg(long, value_name = "HOST:PORT")]
    publish: Option<String>,
    /// Key of its publish endpoint.
    #[arg(long, default_value = "", hide_default_value = true)]
    key: String,
    /// Its process id, for CPU and memory; may be repeated.
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,
    /// Run as the bare-send server.
    #[arg(long, value_name = "ADDRESS", hide = true)]
    limit_listen: Option<SocketAddr>,
}

impl Args {
    /// The gateway's program.
    fn gateway(&self) -> io::Result<PathBuf> {
        match &self.gateway {
            Some(path) => Ok(path.clone()),
            None => Ok(std::env::current_exe()?.with_file_name("tickgate")),
        }
    }
}

/// Why a benchmark ended early.
#[derive(Debug, Error)]
enum BenchFailure {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Said(String),
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("tickgate-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the workloads and prints their figures. Fails if a server cannot be started or reached, refuses what the
/// workload requires, or violates the protocol. Lost and out-of-order messages are figures, not errors.
#[expect(clippy::print_stdout, reason = "printing the figures is the command's purpose")]
fn run(args: &Args) -> Result<(), BenchFailure> {
    if let Some(address) = args.limit_listen {
        return limit::serve(address);
    }
    if args.list {
        WORKLOADS.iter().for_each(|workload| println!("{:<16} {}", workload.name, workload.about));
        return Ok(());
    }
    let unknown = |name: &&String| WORKLOADS.iter().all(|workload| workload.name != **name);
    if let Some(name) = args.workloads.iter().find(unknown) {
        return Err(BenchFailure::Said(format!("unknown workload {name}; --list prints all of them")));
    }
    if let Some(cpu) = args.load_cpu {
        tickgate_process::pin_self(cpu)?;
    }
    let target = match &args.target {
        Some(path) => TargetServer::parse(&std::fs::read_to_string(path)?)?,
        None => TargetServer::parse(target::TICKGATE)?,
    };
    let (mut outcomes, mut failures) = (Vec::new(), Vec::new());
    for workload in WORKLOADS {
        let named = args.workloads.iter().any(|name| name == workload.name);
        if !(named || args.workloads.is_empty()) || (args.target.is_some() && workload.own_only) {
            continue;
        }
        let (runs, failure) = run_workload(args, &target, workload);
        failures.extend(failure.map(|failure| format!("{}: {failure}", workload.name)));
        outcomes.push(WorkloadRuns { workload: workload.name, runs });
        eprint!("{}", figures::table(&outcomes[outcomes.len() - 1..]));
    }
    println!("{}", figures::table(&outcomes));
    if let Some(path) = &args.json {
        let outcomes: Vec<_> = outcomes.iter().map(WorkloadRuns::json).collect();
        let all = json!({
            "target": target.name,
            "version": env!("CARGO_PKG_VERSION"),
            "machine": stage::machine(),
            "payload_bytes": args.payload_bytes,
            "seconds": args.seconds,
            "workloads": outcomes,
        });
        std::fs::write(path, format!("{all:#}\n"))?;
    }
    if failures.is_empty() { Ok(()) } else { Err(BenchFailure::Said(failures.join("\n"))) }
}

/// All runs of one workload, each with newly started servers. The first failure ends them; earlier measurements are
/// kept.
fn run_workload(args: &Args, target: &TargetServer, workload: &Workload) -> (Vec<RunFigures>, Option<BenchFailure>) {
    let mut runs = Vec::new();
    for number in 1..=args.runs.max(1) {
        eprintln!("{} ({number} of {})", workload.name, args.runs.max(1));
        let stage = BenchStage::set(args, target, workload.needs, workload.publishers);
        let figures = stage.and_then(|stage| (workload.run)(&stage));
        match figures {
            Ok(figures) => runs.push(figures),
            Err(failure) => return (runs, Some(failure)),
        }
    }
    (runs, None)
}
