//! `tickgate-client-adapter`: the client of this crate as `tickgate-client-suite` starts it. The lines that it reads and
//! writes are described in `docs/client-suite.md`.

use std::{io::Write, process::ExitCode, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tickgate_client::{
    Accepted, Builder, Channel, Client, ClientState, Driver, Error, Event, Handle, PublicationRequest, RequestError,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader, stdin},
    sync::{Mutex, mpsc},
};

/// A command of the suite.
#[derive(Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
enum SuiteCommand {
    Token {
        token: Option<String>,
        error: Option<String>,
    },
    Subscribe {
        channels: Vec<ChannelElement>,
    },
    Unsubscribe {
        channels: Vec<String>,
    },
    Publish {
        r#ref: String,
        channel: String,
        deadline_ms: u64,
    },
    #[serde(rename = "command")]
    Order {
        r#ref: String,
        name: String,
        deadline_ms: u64,
    },
    Hold,
    Go,
    Cursors,
    Stop,
}

/// The publication of a `publish` command, kept as written.
#[derive(Deserialize)]
struct PublicationData {
    data: Box<RawValue>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ChannelElement {
    Name(String),
    Options(Channel),
}

impl From<ChannelElement> for Channel {
    fn from(element: ChannelElement) -> Self {
        match element {
            ChannelElement::Name(name) => Self::new(name),
            ChannelElement::Options(channel) => channel,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the suite passes settings in the environment")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn report(event: &Value) {
    // If the suite has exited, nothing can be reported.
    let _ = writeln!(std::io::stdout(), "{event}");
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let (Some(url), Some(channels)) = (variable("TICKGATE_URL"), variable("TICKGATE_CHANNELS")) else {
        eprintln!("TICKGATE_URL and TICKGATE_CHANNELS are missing: `tickgate-client-suite --run` sets them");
        return ExitCode::from(2);
    };
    let channels: Vec<ChannelElement> = match serde_json::from_str(&channels) {
        Ok(channels) => channels,
        Err(error) => {
            eprintln!("TICKGATE_CHANNELS: {error}");
            return ExitCode::from(2);
        }
    };
    #[cfg(feature = "defects")]
    if let Some(name) = variable("TICKGATE_CLIENT_DEFECT") {
        let defect = tickgate_client::defect::OmittedRule::named(&name).expect("the name of a defect");
        tickgate_client::defect::everywhere(defect);
    }
    let (answer, answers) = mpsc::channel(1);
    let answers = Arc::new(Mutex::new(answers));
    let source = move || {
        let answers = Arc::clone(&answers);
        async move {
            report(&json!({ "event": "token" }));
            answers.lock().await.recv().await.unwrap_or(Err("the suite has ended".to_owned()))
        }
    };
    let builder = Builder::new(url).channels(channels);
    let builder = match variable("TICKGATE_AUTH").as_deref() {
        Some("none") => builder,
        Some("message") => builder.token_source(source).late_token(),
        _ => builder.token_source(source),
    };
    let (client, driver) = builder.build();
    let adapter = Adapter {
        handle: client.handle(),
        client,
        answer,
        held: None,
        holding: false,
        requests: FuturesUnordered::new(),
    };
    adapter.run(driver).await;
    ExitCode::SUCCESS
}

struct Adapter {
    client: Client,
    handle: Handle,
    answer: mpsc::Sender<Result<String, String>>,
    /// The event that the application is handling.
    held: Option<Event>,
    /// Whether the application should block on its next event.
    holding: bool,
    requests: FuturesUnordered<BoxFuture<'static, Value>>,
}

impl Adapter {
    async fn run(mut self, driver: Driver) {
        let mut driver = Box::pin(driver.run());
        let mut lines = BufReader::new(stdin()).lines();
        let (mut driving, mut reading, mut following) = (true, true, true);
        // A client that has stopped still answers requests, until the suite ends the input.
        while following || reading || !self.requests.is_empty() {
            tokio::select! {
                biased;
                event = self.client.next(), if following && self.held.is_none() => match event {
                    Some(event) => self.take(event),
                    None => following = false,
                },
                line = lines.next_line(), if reading => match line {
                    Ok(Some(line)) => self.command(&line).await,
                    _ => { reading = false; self.handle.stop().await; }
                },
                () = &mut driver, if driving && !reading_waits(self.held.is_some()) => driving = false,
                Some(outcome) = self.requests.next() => report(&outcome),
                // The application is blocked, and the suite has exited.
                else => return,
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Message(_) | Event::Gap(_) if self.holding => self.held = Some(event),
            event => show(&event),
        }
    }

    async fn command(&mut self, line: &str) {
        let command = match serde_json::from_str(line) {
            Ok(command) => command,
            Err(error) => return report(&json!({ "event": "log", "text": format!("{line}: {error}") })),
        };
        match command {
            SuiteCommand::Token { token, error } => {
                let answer = token.ok_or_else(|| error.unwrap_or_default());
                // A stopped client does not wait for the result.
                let _ = self.answer.try_send(answer);
            }
            SuiteCommand::Subscribe { channels } => self.handle.subscribe(channels).await,
            SuiteCommand::Unsubscribe { channels } => self.handle.unsubscribe(channels).await,
            SuiteCommand::Publish { r#ref, channel, deadline_ms } => {
                let Ok(PublicationData { data }) = serde_json::from_str(line) else {
                    return report(&json!({ "event": "log", "text": format!("{line}: no `data`") }));
                };
                let handle = self.handle.clone();
                self.requests.push(Box::pin(async move {
                    let publication = PublicationRequest { channel: &channel, user: None, data: &data, msg_id: None };
                    outcome(&r#ref, handle.publish(&publication, Duration::from_millis(deadline_ms)).await)
                }));
            }
            SuiteCommand::Order { r#ref, name, deadline_ms } => {
                let handle = self.handle.clone();
                self.requests.push(Box::pin(async move {
                    outcome(&r#ref, handle.command(&name, None, Duration::from_millis(deadline_ms)).await)
                }));
            }
            SuiteCommand::Hold => self.holding = true,
            SuiteCommand::Go => {
                self.holding = false;
                self.held.take().iter().for_each(show);
            }
            SuiteCommand::Cursors => report(&json!({ "event": "cursors", "cursors": self.client.cursors() })),
            SuiteCommand::Stop => self.handle.stop().await,
        }
    }
}

/// The defect of rule 32 belongs to the application: it does not run the driver while it is busy.
#[cfg(feature = "defects")]
fn reading_waits(busy: bool) -> bool {
    busy && tickgate_client::defect::is(tickgate_client::defect::OmittedRule::ReadingWaits)
}

#[cfg(not(feature = "defects"))]
fn reading_waits(_: bool) -> bool {
    false
}

fn outcome(name: &str, result: Result<Accepted, RequestError>) -> Value {
    match result {
        Ok(Accepted { id, duplicate }) => {
            json!({ "event": "outcome", "ref": name, "outcome": "accepted", "id": id, "duplicate": duplicate })
        }
        Err(RequestError::Refused(error)) => {
            json!({ "event": "outcome", "ref": name, "outcome": "refused", "code": error.code, "error": error.error })
        }
        Err(RequestError::Unknown) => json!({ "event": "outcome", "ref": name, "outcome": "unknown" }),
        Err(error) => json!({ "event": "outcome", "ref": name, "outcome": "refused", "error": error.to_string() }),
    }
}

fn show(event: &Event) {
    match event {
        Event::Message(message) => {
            let data: Value = serde_json::from_str(&message.payload()).unwrap_or_default();
            let meta = &message.meta;
            let mut shown = json!({ "event": "message", "channel": meta.channel, "id": meta.id, "data": data });
            for (name, set) in [("replayed", meta.replayed), ("snapshot", meta.snapshot)] {
                if set {
                    shown[name] = true.into();
                }
            }
            if meta.conflated > 0 {
                shown["conflated"] = meta.conflated.into();
            }
            report(&shown);
        }
        Event::Gap(gap) => report(&json!({
            "event": "gap", "channels": gap.channels, "after": gap.after, "before": gap.before, "count": gap.count,
            "reason": gap.reason,
        })),
        Event::Refused { channel, error } => report(&json!({
            "event": "refused", "channel": channel, "code": error.code, "error": error.error,
        })),
        Event::State(state) => report(&state_event(state)),
        Event::Unknown { kind } => report(&json!({ "event": "log", "text": format!("unknown notice {kind}") })),
        _ => {}
    }
}

fn state_event(state: &ClientState) -> Value {
    let mut shown = json!({ "event": "state", "state": state.name() });
    let error: Option<&Error> = match state {
        ClientState::Waiting { wait, error } => {
            shown["wait_ms"] = (wait.as_millis() as u64).into();
            Some(error)
        }
        ClientState::Closed { error } => error.as_ref(),
        _ => None,
    };
    if let Some(error) = error {
        shown["error"] = error.to_string().into();
        if let Some(code) = error.code() {
            shown["code"] = code.into();
        }
    }
    shown
}
