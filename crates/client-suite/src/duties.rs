//! The vocabulary of scenarios: what the client must do next. Never acts itself.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    requests,
    script::Subscribes,
    stage::{OfferedConnection, PATIENCE, ReceivedRequest, SuiteRun},
    trace::StepResult,
};

/// How late a client may be on a busy machine.
const LATE: Duration = Duration::from_secs(6);
/// How long it may take until a handled message appears in the cursors.
const CURSORS_TIMEOUT: Duration = Duration::from_secs(2);
/// Tolerance for the clocks of two processes on one machine.
const EARLY: Duration = Duration::from_millis(30);

impl SuiteRun {
    /// The next request for a connection.
    pub(crate) async fn arrival(&mut self) -> StepResult<OfferedConnection> {
        self.arrival_within(PATIENCE).await
    }

    pub(crate) async fn arrival_within(&mut self, patience: Duration) -> StepResult<OfferedConnection> {
        self.until("the client connects", patience, |stage| stage.arrivals.pop_front()).await
    }

    /// The client resumes these channels after these cursors (`null`: without one); they are granted from there, live.
    pub(crate) async fn resumed(&mut self, since: Value) -> StepResult<usize> {
        let line = self.connected().await?;
        let asked = self.resumes(line, &since).await?;
        let granted = asked.since().into_iter().map(
            |(channel, cursor)| json!({ "channel": channel, "class": "reliable", "cursor": cursor, "live": true }),
        );
        self.grant(line, &asked, &granted.collect::<Vec<_>>(), &[]).await;
        Ok(line)
    }

    /// The client requests these channels after these cursors.
    pub(crate) async fn resumes(&mut self, line: usize, since: &Value) -> StepResult<Subscribes> {
        let names: Vec<_> = since.as_object().into_iter().flat_map(|since| since.keys()).map(String::as_str).collect();
        let asked = self.subscribes(line, &names).await?;
        let expected = format!("`subscribe` with `since` {since}");
        self.check(json!(asked.since()) == *since, &expected, &format!("`since` {}", json!(asked.since())))?;
        Ok(asked)
    }

    /// The client subscribes to all of these channels, in as many requests as it likes, and to no other.
    pub(crate) async fn subscribes(&mut self, line: usize, names: &[&str]) -> StepResult<Subscribes> {
        let mut missing: Vec<_> = names.to_vec();
        let mut requests = Vec::new();
        while !missing.is_empty() {
            let expected = format!("`subscribe` of {}", missing.join(", "));
            let asked = self.request(line, "subscribe", &expected).await?;
            let elements = requests::elements(&asked.body).unwrap_or_default();
            for element in &elements {
                let at = missing.iter().position(|name| element["channel"] == *name);
                let Some(at) = at else { return self.fail(&expected, &asked.body.to_string()) };
                missing.swap_remove(at);
            }
            requests.push((asked.body["id"].clone(), elements));
        }
        Ok(Subscribes(requests))
    }

    /// The next request of this type on this line.
    pub(crate) async fn request(&mut self, line: usize, kind: &str, expected: &str) -> StepResult<ReceivedRequest> {
        self.request_within(line, kind, expected, PATIENCE).await
    }

    pub(crate) async fn request_within(
        &mut self,
        line: usize,
        kind: &str,
        expected: &str,
        patience: Duration,
    ) -> StepResult<ReceivedRequest> {
        self.until(expected, patience, |stage| {
            let requests = &mut stage.lines[line].requests;
            requests.remove(requests.iter().position(|asked| asked.body["type"] == kind)?)
        })
        .await
    }

    /// The next event that the client delivers is this publication.
    pub(crate) async fn delivers(&mut self, channel: &str, id: &str) -> StepResult<Value> {
        let expected = format!("the message {id} of {channel} is delivered");
        let event = self.until(&expected, PATIENCE, |stage| stage.data.pop_front()).await?;
        let is = event["event"] == "message" && event["channel"] == channel && event["id"] == id;
        self.check(is && event["data"]["n"] == id, &expected, &event.to_string())?;
        Ok(event)
    }

    /// The next event that the client delivers is this gap.
    pub(crate) async fn reports_gap(&mut self, gap: &Value) -> StepResult {
        let expected = format!("the gap {gap} is reported");
        let event = self.until(&expected, PATIENCE, |stage| stage.data.pop_front()).await?;
        let same = ["channels", "after", "before", "count", "reason"].iter().all(|name| event[*name] == gap[*name]);
        self.check(event["event"] == "gap" && same, &expected, &event.to_string())
    }

    /// The next report: a refused channel, an outcome, cursors.
    pub(crate) async fn reports(&mut self, expected: &str) -> StepResult<Value> {
        self.until(expected, PATIENCE, |stage| stage.reports.pop_front()).await
    }

    /// The client reports that a channel is refused.
    pub(crate) async fn reports_refused(&mut self, channel: &str, code: u16) -> StepResult {
        let expected = format!("`refused` of {channel} with code {code}");
        let event = self.reports(&expected).await?;
        let is = event["event"] == "refused" && event["channel"] == channel && event["code"] == code;
        self.check(is, &expected, &event.to_string())
    }

    /// The client reports how a publication ended.
    pub(crate) async fn reports_outcome(&mut self, name: &str, outcome: &str) -> StepResult<Value> {
        let expected = format!("the outcome of {name:?} is {outcome:?}");
        let event = self.reports(&expected).await?;
        let is = event["event"] == "outcome" && event["ref"] == name && event["outcome"] == outcome;
        self.check(is, &expected, &event.to_string())?;
        Ok(event)
    }

    /// The client reaches this state, possibly through others.
    pub(crate) async fn state(&mut self, state: &str) -> StepResult<Value> {
        self.state_within(state, PATIENCE).await
    }

    pub(crate) async fn state_within(&mut self, state: &str, patience: Duration) -> StepResult<Value> {
        let expected = format!("the state {state:?} is reported");
        self.until(&expected, patience, |stage| {
            let at = stage.states.iter().position(|(_, event)| event["state"] == state)?;
            stage.states.drain(..=at).next_back().map(|(_, event)| event)
        })
        .await
    }

    /// The client stops: it reports `closed`, with this code if one is given, and stays away.
    pub(crate) async fn ends(&mut self, code: Option<u16>) -> StepResult {
        let event = self.state("closed").await?;
        let is = code.is_none_or(|code| event["code"] == code);
        self.check(is, &format!("`closed` with code {code:?}"), &event.to_string())?;
        self.stays_away(Duration::from_millis(1500)).await
    }

    /// The client does not connect for a time.
    pub(crate) async fn stays_away(&mut self, time: Duration) -> StepResult {
        let expected = format!("no connection for {time:?}");
        self.nothing(&expected, time, |stage| stage.arrivals.front().map(|arrival| arrival.request.shown())).await
    }

    /// The client delivers nothing and requests nothing on this line for a time.
    pub(crate) async fn is_quiet(&mut self, line: usize, time: Duration) -> StepResult {
        let expected = format!("nothing delivered, nothing requested, no reconnect for {time:?}");
        self.nothing(&expected, time, |stage| {
            let data = stage.data.front().map(Value::to_string);
            let request = stage.lines[line].requests.front().map(|asked| asked.body.to_string());
            data.or(request).or_else(|| stage.arrivals.front().map(|arrival| arrival.request.shown()))
        })
        .await
    }

    /// The client delivers nothing for a time.
    pub(crate) async fn delivers_nothing(&mut self, time: Duration) -> StepResult {
        let expected = format!("nothing is delivered for {time:?}");
        self.nothing(&expected, time, |stage| stage.data.front().map(Value::to_string)).await
    }

    /// Checks that something happened after at least `least`, and not much later than `most`.
    pub(crate) fn check_wait(&self, what: &str, took: Duration, least: Duration, most: Duration) -> StepResult {
        let fits = took + EARLY >= least && took <= most + LATE;
        self.check(fits, &format!("{what} after {least:?} to {most:?}"), &format!("after {took:?}"))
    }

    /// The application's cursors become these.
    pub(crate) async fn reports_cursors(&mut self, cursors: &Value) -> StepResult {
        let deadline = Instant::now() + CURSORS_TIMEOUT;
        loop {
            self.command(&json!({ "command": "cursors" })).await?;
            let expected = format!("`cursors` {cursors}");
            let event = self.reports(&expected).await?;
            if event["event"] == "cursors" && event["cursors"] == *cursors {
                return Ok(());
            }
            if Instant::now() > deadline {
                return self.fail(&expected, &event.to_string());
            }
        }
    }

    /// The next wait that the client reports, in milliseconds.
    pub(crate) async fn waits(&mut self) -> StepResult<u64> {
        let event = self.state("waiting").await?;
        match event["wait_ms"].as_u64() {
            Some(wait_ms) => Ok(wait_ms),
            None => self.fail("`wait_ms` of the state `waiting`", &event.to_string()),
        }
    }
}
