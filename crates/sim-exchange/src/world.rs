//! The state shared by all connections: the market, the switches, the faults, the connections, and the log of client
//! actions. One lock around all of it, held briefly.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc};

use crate::{
    event::StreamEvent, faults::RequestedFault, market::SimulatedMarket, random::SplitMix, replay::Replay,
    switches::Switches,
};

/// Maximum number of log lines.
const LOG_MAX: usize = 20_000;
/// Maximum number of recorded violations.
const VIOLATIONS_MAX: usize = 1_000;
/// Number of steps that a slow connection may be behind before it is closed.
const BEHIND_MAX: usize = 256;
const FIVE_MINUTES_MS: u64 = 300_000;

/// A command to a connection.
#[derive(Clone, Debug)]
pub(crate) enum SocketCommand {
    Cut,
    /// Announces the end, which follows after this many milliseconds.
    Shutdown(u64),
    /// Sends a frame with a reserved bit.
    ReservedBit,
}

/// A connection as seen from outside.
#[derive(Debug)]
pub(crate) struct Connected {
    pub id: u64,
    pub opened_ms: u64,
    pub streams: HashSet<String>,
    pub commands: mpsc::Sender<SocketCommand>,
    /// Number of sent events.
    pub sent: u64,
}

/// The state behind the lock.
#[derive(Debug)]
pub(crate) struct ExchangeState {
    pub market: SimulatedMarket,
    /// Factor on the frequency of trades, excluding bursts.
    pub load: u64,
    pub switches: Switches,
    pub faults: Vec<RequestedFault>,
    pub random: SplitMix,
    pub connected: Vec<Connected>,
    pub replay: Option<Replay>,
    connections: u64,
    faults_made: u64,
    connects: VecDeque<u64>,
    failed_at: Option<u64>,
    banned_until: u64,
    limited_until: u64,
    weight: (u64, u64),
    log: VecDeque<Value>,
    violations: Vec<Value>,
}

/// The exchange. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    state: Arc<Mutex<ExchangeState>>,
    pub events: broadcast::Sender<Arc<Vec<StreamEvent>>>,
    started: Instant,
}

impl Exchange {
    pub(crate) fn new(market: SimulatedMarket, switches: Switches, seed: u64, replay: Option<Replay>) -> Self {
        let state = ExchangeState {
            load: market.load,
            market,
            switches,
            faults: Vec::new(),
            random: SplitMix::new(seed ^ 0xfa),
            connected: Vec::new(),
            replay,
            connections: 0,
            faults_made: 0,
            connects: VecDeque::new(),
            failed_at: None,
            banned_until: 0,
            limited_until: 0,
            weight: (0, 0),
            log: VecDeque::new(),
            violations: Vec::new(),
        };
        let (events, _) = broadcast::channel(BEHIND_MAX);
        Self { state: Arc::new(Mutex::new(state)), events, started: Instant::now() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, ExchangeState> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Milliseconds since the process started: the clock of limits and faults, regardless of the market's clock.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Advances the market and notifies all connections.
    pub(crate) fn step(&self) {
        let now_ms = self.now_ms();
        let mut state = self.lock();
        state.end_faults(now_ms);
        let events = match state.replay.as_mut() {
            Some(replay) => replay.step(),
            None => state.step(),
        };
        state.note_lingering(now_ms);
        drop(state);
        if !events.is_empty() {
            // There may be no connections.
            let _ = self.events.send(Arc::new(events));
        }
    }
}

impl ExchangeState {
    fn step(&mut self) -> Vec<StreamEvent> {
        let burst = self.faults.iter().find(|fault| fault.kind == "burst").map_or(1, |fault| fault.amount);
        self.market.load = self.load * burst;
        let steps = self.market.step();
        let (now_ms, is_ticker_due) = (self.market.now_ms, self.market.is_ticker_due());
        let shown_ms = self.shown_ms(now_ms);
        let mut events = Vec::new();
        for (instrument, step) in self.market.instruments.iter_mut().zip(steps) {
            if !instrument.has_data() {
                continue;
            }
            let name = instrument.symbol.to_ascii_lowercase();
            let mut add = |stream: &str, payload: String, repeated| {
                events.push(StreamEvent {
                    stream: format!("{name}@{stream}").into(),
                    payload: payload.into(),
                    repeated,
                });
            };
            for trade in &step.trades {
                let mut shown = trade.clone();
                shown.time_ms = self.switches.shown(trade.time_ms);
                add("aggTrade", shown.json(&instrument.symbol, shown_ms), false);
            }
            let book = instrument.book();
            if instrument.is_traded() {
                let json = book.json(20);
                add("depth20@100ms", json.clone(), !step.book_changed);
                if is_ticker_due {
                    add("depth20", json, false);
                }
            }
            if is_ticker_due {
                add("ticker", instrument.ticker(shown_ms).to_owned(), false);
            }
        }
        events
    }

    /// The time that is sent, which may be wrong on purpose.
    fn shown_ms(&self, now_ms: u64) -> u64 {
        let back = if self.switches.backwards { 2 * (self.market.steps * crate::market::STEP_MS) } else { 0 };
        self.switches.shown(now_ms).saturating_sub(back)
    }

    fn end_faults(&mut self, now_ms: u64) {
        self.faults.retain(|fault| !fault.is_over(now_ms));
    }

    /// Starts a fault; immediate ones are executed now.
    ///
    /// # Errors
    /// A sentence that states what is expected.
    pub(crate) fn begin(&mut self, body: &Value, now_ms: u64) -> Result<u64, String> {
        self.faults_made += 1;
        let mut fault = RequestedFault::read(self.faults_made, body, now_ms)?;
        if fault.connection == "newest" {
            fault.connection = self.connections.to_string();
        }
        match &*fault.kind {
            "cut" => self.send(&fault, &SocketCommand::Cut),
            "rsv" => self.send(&fault, &SocketCommand::ReservedBit),
            "shutdown" => {
                let after = fault.until_ms.map_or(5_000, |until| until - now_ms);
                self.send(&fault, &SocketCommand::Shutdown(after));
            }
            "status" => match self.market.find_mut(&fault.symbol) {
                Some(instrument) => fault.value.clone_into(&mut instrument.status),
                None => return Err(format!("unknown symbol {:?}", fault.symbol)),
            },
            "list" => self.market.list(&fault.symbol),
            "delist" => self.market.instruments.retain(|instrument| instrument.symbol != fault.symbol),
            "rename" => match self.market.find_mut(&fault.symbol) {
                Some(instrument) => fault.value.clone_into(&mut instrument.symbol),
                None => return Err(format!("unknown symbol {:?}", fault.symbol)),
            },
            _ => self.faults.push(fault),
        }
        Ok(self.faults_made)
    }

    fn send(&self, fault: &RequestedFault, command: &SocketCommand) {
        for connected in self.connected.iter().filter(|connected| concerns(fault, connected.id)) {
            // A connection that accepts no commands is ending.
            let _ = connected.commands.try_send(command.clone());
        }
    }

    /// Whether a fault of this kind affects a connection now.
    pub(crate) fn suffers(&self, kind: &str, connection: u64) -> bool {
        self.faults.iter().any(|fault| fault.kind == kind && concerns(fault, connection))
    }

    /// The fault of this kind, regardless of what it affects.
    pub(crate) fn fault(&self, kind: &str) -> Option<&RequestedFault> {
        self.faults.iter().find(|fault| fault.kind == kind)
    }

    /// Whether pings are suppressed too.
    pub(crate) fn withholds_pings(&self) -> bool {
        self.faults.iter().any(|fault| fault.kind == "mute" && !fault.keep_pings)
    }

    /// Counts an attempt to connect; returns the status that refuses it.
    pub(crate) fn admit(&mut self, now_ms: u64) -> Result<u64, u16> {
        if self.failed_at.is_some_and(|failed_at| now_ms < failed_at + 400) {
            self.violate(now_ms, "connects", "another attempt within 400 ms of a failed one");
        }
        self.connects.retain(|at| now_ms < at + FIVE_MINUTES_MS);
        self.connects.push_back(now_ms);
        let mut status = self.switches.upgrade_status;
        if now_ms < self.banned_until {
            status = 418;
        } else if self.connects.len() > self.switches.connect_limit {
            self.violate(now_ms, "connects", "more than the limit in five minutes");
            self.banned_until = now_ms + self.switches.ban;
            status = 429;
        }
        self.write(now_ms, "connect", &json!({"status": status}));
        if status != 101 {
            self.failed_at = Some(now_ms);
            return Err(status);
        }
        self.failed_at = None;
        self.connections += 1;
        Ok(self.connections)
    }

    /// Counts a REST request; returns the status that refuses it, with the seconds to wait.
    pub(crate) fn charge(&mut self, now_ms: u64, path: &str, weight: u64) -> Result<u64, (u16, u64)> {
        self.write(now_ms, "rest", &json!({"path": path, "weight": weight}));
        if now_ms < self.banned_until {
            return Err((418, (self.banned_until - now_ms).div_ceil(1_000)));
        }
        if now_ms < self.limited_until {
            self.violate(now_ms, "rest_after_429", path);
            self.banned_until = now_ms + self.switches.ban;
            return Err((418, self.switches.ban.div_ceil(1_000)));
        }
        let minute = now_ms / 60_000;
        if self.weight.0 != minute {
            self.weight = (minute, 0);
        }
        self.weight.1 += weight;
        if self.weight.1 > self.switches.rest_limit {
            self.limited_until = now_ms + self.switches.retry_after * 1_000;
            if self.switches.rest_limit >= 6_000 {
                self.violate(now_ms, "rest_weight", path);
            }
            return Err((429, self.switches.retry_after));
        }
        Ok(self.weight.1)
    }

    fn note_lingering(&mut self, now_ms: u64) {
        let newest = self.connected.iter().filter(|c| c.sent > 0).map(|c| c.opened_ms).max().unwrap_or(0);
        let old = self.connected.iter().filter(|c| c.opened_ms < newest && now_ms > newest + 60_000).count();
        if old > 0 && !self.violations.iter().any(|violation| violation["kind"] == "lingering") {
            self.violate(now_ms, "lingering", "a connection was kept 60 s after it was replaced");
        }
    }

    /// Records a violation.
    pub(crate) fn violate(&mut self, now_ms: u64, kind: &str, detail: &str) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(json!({"at": now_ms, "kind": kind, "detail": detail}));
        }
    }

    /// Records an action of a client.
    pub(crate) fn write(&mut self, now_ms: u64, what: &str, detail: &Value) {
        if self.log.len() == LOG_MAX {
            self.log.pop_front();
        }
        self.log.push_back(json!({"at": now_ms, "what": what, "detail": detail}));
    }

    pub(crate) fn violations(&self) -> &[Value] {
        &self.violations
    }

    pub(crate) fn log(&self) -> Vec<Value> {
        self.log.iter().cloned().collect()
    }
}

fn concerns(fault: &RequestedFault, connection: u64) -> bool {
    fault.connection == "all" || fault.connection == connection.to_string()
}
