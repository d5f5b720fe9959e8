//! The REST API of the exchange, and the simulator's own paths below `/sim`.

use serde_json::{Value, json};

use crate::{
    http::{ExchangeRequest, ExchangeResponse},
    market::SimulatedMarket,
    world::{Exchange, ExchangeState},
};

/// Maximum number of trades in one response.
const TRADES_MAX: usize = 1_000;

/// The response to a request to the exchange.
pub(crate) fn exchange(world: &Exchange, request: &ExchangeRequest) -> ExchangeResponse {
    let now_ms = world.now_ms();
    let mut state = world.lock();
    let weight = match request.path() {
        "/api/v3/exchangeInfo" => 20,
        "/api/v3/aggTrades" => 4,
        "/api/v3/depth" => 5,
        "/api/v3/ticker/24hr" => 2,
        _ => 1,
    };
    let used = match state.charge(now_ms, &request.target, weight) {
        Ok(used) => used,
        Err((status, seconds)) => {
            let body = r#"{"code":-1003,"msg":"Too much request weight used."}"#;
            return ExchangeResponse::json(status, body).with("Retry-After", seconds.to_string());
        }
    };
    let answer = match recorded(&state, request) {
        Some(answer) => answer,
        None => fresh(&mut state, request),
    };
    answer.with("X-MBX-USED-WEIGHT-1M", used.to_string())
}

fn recorded(state: &ExchangeState, request: &ExchangeRequest) -> Option<ExchangeResponse> {
    let replay = state.replay.as_ref()?;
    let body = replay.rest(&request.target);
    Some(body.map_or_else(|| refused(404, -1, "not in the recording"), |body| ExchangeResponse::json(200, body)))
}

fn fresh(state: &mut ExchangeState, request: &ExchangeRequest) -> ExchangeResponse {
    match request.path() {
        "/api/v3/ping" => ExchangeResponse::json(200, "{}"),
        "/api/v3/time" => ExchangeResponse::json(200, json!({"serverTime": state.market.now_ms}).to_string()),
        "/api/v3/exchangeInfo" => exchange_info(state),
        "/api/v3/aggTrades" => trades(state, request),
        "/api/v3/depth" => match known(&state.market, request) {
            Some(symbol) if state.market.find(&symbol).is_some_and(|i| !i.is_traded()) => {
                ExchangeResponse::json(200, r#"{"lastUpdateId":-1,"bids":[],"asks":[]}"#)
            }
            Some(symbol) => {
                ExchangeResponse::json(200, state.market.find(&symbol).map_or_else(String::new, |i| i.book().json(20)))
            }
            None => refused(400, -1121, "Invalid symbol."),
        },
        "/api/v3/ticker/24hr" => match known(&state.market, request) {
            Some(symbol) => {
                let now_ms = state.market.now_ms;
                ExchangeResponse::json(
                    200,
                    state.market.find_mut(&symbol).map_or_else(String::new, |i| i.ticker(now_ms).to_owned()),
                )
            }
            None => refused(400, -1121, "Invalid symbol."),
        },
        _ => refused(404, -1, "not found"),
    }
}

fn exchange_info(state: &ExchangeState) -> ExchangeResponse {
    let frozen = state.fault("freeze-all").is_some();
    let symbols = state.market.instruments.iter().map(|instrument| {
        let status = if frozen { "BREAK" } else { &instrument.status };
        json!({"symbol": instrument.symbol, "status": status, "baseAsset": "X", "quoteAsset": "USDT"})
    });
    let symbols: Vec<Value> = symbols.collect();
    ExchangeResponse::json(
        200,
        json!({"timezone": "UTC", "serverTime": state.market.now_ms, "symbols": symbols}).to_string(),
    )
}

fn trades(state: &ExchangeState, request: &ExchangeRequest) -> ExchangeResponse {
    let Some(symbol) = known(&state.market, request) else { return refused(400, -1121, "Invalid symbol.") };
    let from: u64 = request.parameter("fromId").and_then(|text| text.parse().ok()).unwrap_or(0);
    let limit = request.parameter("limit").and_then(|text| text.parse().ok()).unwrap_or(500).min(TRADES_MAX);
    let hidden = state.fault("rest-lag").map_or(0, |fault| fault.amount as usize);
    let Some(instrument) = state.market.find(&symbol) else { return refused(400, -1121, "Invalid symbol.") };
    let shown = instrument.trades.len().saturating_sub(hidden);
    let found = instrument.trades.iter().take(shown).filter(|trade| trade.id >= from).take(limit);
    let found: Vec<_> = found
        .map(|trade| {
            let mut shown = trade.clone();
            shown.time_ms = state.switches.shown(trade.time_ms);
            shown.rest_json()
        })
        .collect();
    ExchangeResponse::json(200, format!("[{}]", found.join(",")))
}

fn known(market: &SimulatedMarket, request: &ExchangeRequest) -> Option<String> {
    request.parameter("symbol").filter(|symbol| market.find(symbol).is_some())
}

fn refused(status: u16, code: i64, text: &str) -> ExchangeResponse {
    ExchangeResponse::json(status, json!({"code": code, "msg": text}).to_string())
}

/// The response to a request to the simulator itself.
pub(crate) fn simulator(world: &Exchange, request: &ExchangeRequest) -> ExchangeResponse {
    let now_ms = world.now_ms();
    let mut state = world.lock();
    match (&*request.method, request.path()) {
        ("GET", "/sim/truth/trades") => {
            let Some(symbol) = request.parameter("symbol") else { return refused(400, -1, "a symbol is required") };
            let number = |name, instead| request.parameter(name).and_then(|text| text.parse().ok()).unwrap_or(instead);
            let (from, to) = (number("from", 0), number("to", u64::MAX));
            let found = state.market.find(&symbol).into_iter().flat_map(|instrument| &instrument.trades);
            let found: Vec<_> = found
                .filter(|trade| (from..=to).contains(&trade.id))
                .map(crate::market::SimulatedTrade::rest_json)
                .collect();
            ExchangeResponse::json(200, format!("[{}]", found.join(",")))
        }
        ("GET", "/sim/truth/book") => {
            let id: Option<u64> = request.parameter("update_id").and_then(|text| text.parse().ok());
            let symbol = request.parameter("symbol").unwrap_or_default();
            let books = state.market.find(&symbol).map(|instrument| &instrument.books);
            let book = books.and_then(|books| books.iter().find(|book| Some(book.update_id) == id));
            book.map_or_else(|| refused(404, -1, "no such book"), |book| ExchangeResponse::json(200, book.json(20)))
        }
        ("GET", "/sim/truth/ticker") => {
            let at: Option<u64> = request.parameter("at").and_then(|text| text.parse().ok());
            let symbol = request.parameter("symbol").unwrap_or_default();
            let tickers = state.market.find(&symbol).map(|instrument| &instrument.tickers);
            let ticker = tickers.and_then(|tickers| tickers.iter().find(|(time, _)| Some(*time) == at));
            ticker.map_or_else(
                || refused(404, -1, "no such ticker"),
                |(_, json)| ExchangeResponse::json(200, json.clone()),
            )
        }
        ("GET", "/sim/log") => ExchangeResponse::json(200, json!(state.log()).to_string()),
        ("GET", "/sim/violations") => ExchangeResponse::json(200, json!(state.violations()).to_string()),
        ("GET", "/sim/connections") => {
            let all: Vec<_> = state
                .connected
                .iter()
                .map(|c| json!({"id": c.id, "opened": c.opened_ms, "streams": c.streams, "sent": c.sent}))
                .collect();
            ExchangeResponse::json(200, json!(all).to_string())
        }
        ("POST", "/sim/step") => {
            drop(state);
            let steps = read(&request.body)["steps"].as_u64().unwrap_or(1).min(100_000);
            (0..steps).for_each(|_| world.step());
            ExchangeResponse::json(200, json!({"now": world.lock().market.now_ms}).to_string())
        }
        ("POST", "/sim/fault") => match state.begin(&read(&request.body), now_ms) {
            Ok(id) => ExchangeResponse::json(200, json!({"id": id}).to_string()),
            Err(text) => refused(400, -1, &text),
        },
        ("DELETE", path) if path.starts_with("/sim/fault") => {
            let id: Option<u64> = path.rsplit('/').next().and_then(|text| text.parse().ok());
            state.faults.retain(|fault| id.is_some_and(|id| fault.id != id));
            ExchangeResponse::json(200, "{}")
        }
        ("POST", "/sim/set") => {
            let body = read(&request.body);
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let set: Result<Vec<()>, String> = body
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, value)| state.switches.set(name, &text(value)))
                .collect();
            set.map_or_else(|text| refused(400, -1, &text), |_| ExchangeResponse::json(200, "{}"))
        }
        _ => refused(404, -1, "not found"),
    }
}

fn read(body: &str) -> Value {
    serde_json::from_str(body).unwrap_or_default()
}
