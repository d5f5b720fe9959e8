//! `sim-exchange`: a simulator of the spot exchange that the gateway follows, with the faults of a real one.
//!
//! One port serves the streams (`/stream`, `/ws`), REST (`/api/v3/…`) and its own paths (`/sim/…`): faults, switches,
//! the violations of clients, and the true market to compare with. Shares no code with the gateway: otherwise both
//! could have the same bug.

mod control;
mod event;
mod faults;
mod frames;
mod http;
mod market;
mod random;
mod replay;
mod rest;
mod socket;
mod switches;
mod world;

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Parser, ValueEnum};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    http::{ExchangeRequest, ExchangeResponse},
    market::{STEP_MS, SimulatedMarket},
    replay::Replay,
    switches::Switches,
    world::Exchange,
};

/// Maximum number of concurrent connections.
const CONNECTIONS_MAX: usize = 2_000;
/// Timeout of a client's request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The start of a virtual clock, in milliseconds since 1970.
const VIRTUAL_START_MS: u64 = 1_790_000_000_000;

const EXAMPLES: &str = "\
Examples:
  sim-exchange --listen 127.0.0.1:9443
  TICKGATE__FEEDS__BINANCE__ENABLED=on \\
  TICKGATE__FEEDS__BINANCE__STREAM_URL=ws://127.0.0.1:9443 \\
  TICKGATE__FEEDS__BINANCE__REST_URL=http://127.0.0.1:9443 tickgate serve

  curl -d '{\"kind\":\"mute\",\"for\":\"20s\"}' http://127.0.0.1:9443/sim/fault
  curl -d '{\"cut-form\":\"rst\"}' http://127.0.0.1:9443/sim/set
  curl http://127.0.0.1:9443/sim/violations";

/// What advances the market.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MarketClock {
    /// The wall clock.
    Real,
    /// `POST /sim/step`.
    Virtual,
}

/// A spot exchange with faults on request
#[derive(Debug, Parser)]
#[command(name = "sim-exchange", version, after_help = EXAMPLES)]
struct Args {
    /// Address for streams, REST and control
    #[arg(long, default_value = "127.0.0.1:9443")]
    listen: SocketAddr,
    /// The same seed and the same steps give the same market
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Total number of symbols: eight of different kinds, the others generated
    #[arg(long, default_value_t = 8)]
    symbols: usize,
    /// Trades per second of each generated symbol
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// Factor on the frequency of trades
    #[arg(long, default_value_t = 1)]
    load: u64,
    /// What advances the market
    #[arg(long, value_enum, default_value_t = MarketClock::Real)]
    clock: MarketClock,
    /// Replay a recording instead of a generated market
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Playback speed; 1: as recorded, 0: all at once
    #[arg(long, default_value_t = 1)]
    speed: u64,
    /// A switch, such as `day=30s`; may be repeated
    #[arg(long = "set", value_name = "SWITCH=VALUE")]
    switches: Vec<String>,
    /// Exit with 1 if a client violated the protocol of the exchange
    #[arg(long)]
    strict: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(code) => code,
        Err(text) => {
            eprintln!("sim-exchange: {text}");
            ExitCode::from(2)
        }
    }
}

async fn run(args: Args) -> Result<ExitCode, String> {
    let world = world(&args)?;
    let listener =
        TcpListener::bind(args.listen).await.map_err(|error| format!("cannot listen on {}: {error}", args.listen))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    if !address.ip().is_loopback() {
        eprintln!(
            "sim-exchange: listening on {address}, which is reachable from other machines: anyone can inject \
            faults"
        );
    }
    let mut ended = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    say(&format!("listening on {address}"));
    let mut connections = JoinSet::new();
    let mut steps = interval(Duration::from_millis(STEP_MS));
    steps.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        tokio::select! {
            _ = ended.recv() => break,
            _ = tokio::signal::ctrl_c() => break,
            _ = steps.tick(), if args.clock == MarketClock::Real => world.step(),
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve(world.clone(), stream));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
    let violations = world.lock().violations().to_vec();
    say(&json!({"violations": violations}).to_string());
    Ok(if args.strict && !violations.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Prints a line. A closed standard output is no reason to fail.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn world(args: &Args) -> Result<Exchange, String> {
    let mut switches = Switches::default();
    for pair in &args.switches {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| format!("--set requires a switch and a value, such as day=30s, not {pair}"))?;
        switches.set(name, value)?;
    }
    let replay = match &args.replay {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            Some(Replay::read(&text, args.speed).map_err(|error| format!("{}: {error}", path.display()))?)
        }
        None => None,
    };
    let now_ms = match args.clock {
        MarketClock::Real => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
        MarketClock::Virtual => VIRTUAL_START_MS,
    };
    let mut market = SimulatedMarket::new(args.seed, args.symbols, args.rate, now_ms);
    market.load = args.load;
    Ok(Exchange::new(market, switches, args.seed, replay))
}

/// Answers one request, or serves one stream connection until its end. Errors here concern only the client.
async fn serve(world: Exchange, mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let Ok(Ok(Some(request))) = timeout(REQUEST_TIMEOUT, ExchangeRequest::read(&mut stream)).await else { return };
    let path = request.path();
    let _ = if path.starts_with("/sim/") {
        rest::simulator(&world, &request).write(&mut stream).await
    } else if path.starts_with("/api/") {
        answer(&world, &request, &mut stream).await
    } else if path == "/ws" || path == "/stream" || path.starts_with("/ws/") {
        socket::serve(world, stream, &request).await
    } else {
        ExchangeResponse::json(404, r#"{"code":-1,"msg":"not found"}"#).write(&mut stream).await
    };
}

/// A REST response, or what the switches replace it with.
async fn answer(world: &Exchange, request: &ExchangeRequest, stream: &mut TcpStream) -> io::Result<()> {
    let (delay, error) = {
        let state = world.lock();
        (state.switches.rest_delay, state.switches.rest_error.clone())
    };
    sleep(Duration::from_millis(delay)).await;
    match &*error {
        "none" => rest::exchange(world, request).write(stream).await,
        "reset" => stream.set_zero_linger(),
        "hang" => std::future::pending().await,
        "html" => stream.write_all(&page().bytes()).await,
        status => refuse(stream, status.parse().unwrap_or(500)).await,
    }
}

/// The page of a proxy in between.
fn page() -> ExchangeResponse {
    let body = "<html><head><title>Sign in to the network</title></head></html>".into();
    ExchangeResponse { status: 200, headers: vec![("Content-Type", "text/html".into())], body }
}

/// Refuses an upgrade or a request as the exchange does.
pub(crate) async fn refuse(stream: &mut TcpStream, status: u16) -> io::Result<()> {
    let answer = match status {
        200 => page(),
        302 => ExchangeResponse::json(302, "").with("Location", "https://www.example.com/"),
        418 | 429 => {
            ExchangeResponse::json(status, r#"{"code":-1003,"msg":"Too many requests."}"#).with("Retry-After", "5")
        }
        451 => ExchangeResponse::json(451, r#"{"code":0,"msg":"Service unavailable from a restricted location"}"#),
        _ => ExchangeResponse::json(status, r#"{"code":-1000,"msg":"refused"}"#),
    };
    answer.write(stream).await
}
