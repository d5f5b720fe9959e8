//! `tickgate check`: tests a running gateway end to end, as a client and as a publisher, and reports the step that
//! fails. Never touches a real user's messages: it creates a token for a separate user.

use std::{
    future::Future,
    pin::{Pin, pin},
    time::{Duration, Instant, SystemTime},
};

use futures_util::FutureExt;
use serde_json::{Value, json, value::RawValue};
use tickgate_client::{Builder, Channel, Client, ClientState, Event, PublicationRequest};
use tickgate_wire::model::{Pattern, StreamId, UserId};

use super::{CommandFailure, print, settings::SettingsSources, token::Signer};
use crate::{
    auth::Rights,
    config::{Config, parse_duration},
};

const EXAMPLES: &str = r#"Examples:
  tickgate check ws://gw.example.com:8000 --ops http://gw-ops:8001 --config a.toml
  tickgate check --secret "$SECRET" --api-key "$KEY" --json
  tickgate check --token "$TOKEN" --api-key "$KEY"

One line per step: connect, subscribe, publish, receive, disconnect, publish
meanwhile, reconnect and receive exactly what was missed. Exits with 0, or with 1 at
the first step that fails. The secret and the API key come from the gateway's
configuration or from the flags; the check makes up a user, unless you give a token
(if no HS256 secret is configured). That user must not receive other messages."#;

/// The endpoint, and the private channel on it that the check uses.
const ENDPOINT: &str = "/ws/trading";
const CHANNEL: &str = "orders";
const TOKEN_TTL: Duration = Duration::from_secs(300);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Check a running gateway: connect, publish, receive, reconnect, miss nothing
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The public listener, or the load balancer in front of it
    #[arg(default_value = "ws://127.0.0.1:8000")]
    url: String,
    /// Operations listener of any replica
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8001")]
    ops: String,
    /// HS256 secret; default: the first configured one
    #[arg(long)]
    secret: Option<String>,
    /// A token, if none can be made
    #[arg(long, env = "TICKGATE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// API key; default: the first configured one
    #[arg(long, env = "TICKGATE_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Time limit for the whole check
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
    /// Print one JSON object per step
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingsSources,
}

pub(super) async fn run(args: Args) -> Result<(), CommandFailure> {
    let began = Instant::now();
    let gateway = CheckTarget::of(&args)?;
    let mut report = StepReport { json: args.json, steps: 0, doing: "connect" };
    match tokio::time::timeout(args.timeout, gateway.walk(&mut report)).await {
        Ok(Ok(())) => report.passed(began.elapsed()),
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(report.late(args.timeout)),
    }
}

/// What is checked, and the credentials for it.
struct CheckTarget {
    endpoint: String,
    operations: String,
    token: String,
    api_key: String,
    /// Distinguishes the messages of this check.
    mark: String,
}

impl CheckTarget {
    fn of(args: &Args) -> Result<Self, CommandFailure> {
        let mark = uuid::Uuid::new_v4().simple().to_string();
        let complete = (args.secret.is_some() || args.token.is_some()) && args.api_key.is_some();
        let config = if complete { None } else { Some(Config::load(&args.settings.sources())?.0) };
        let token = match (&args.secret, &args.token, &config) {
            (Some(secret), ..) => made_up_token(&Signer::of_secret(secret), &mark)?,
            (None, Some(token), _) => token.clone(),
            (None, None, config) => {
                let config = config.as_ref().ok_or_else(|| CommandFailure::usage("no secret: set --secret"))?;
                made_up_token(&Signer::of_configured(config)?, &mark)?
            }
        };
        let configured = config.as_ref().and_then(|config| config.auth.publishing_key());
        let api_key = args.api_key.clone().or_else(|| configured.map(|key| key.expose().to_owned()));
        let api_key = api_key.ok_or_else(|| CommandFailure::usage("no API key: set --api-key or --config"))?;
        let endpoint = format!("{}{ENDPOINT}", args.url.trim_end_matches('/'));
        Ok(Self { endpoint, operations: args.ops.clone(), token, api_key, mark })
    }

    async fn walk(&self, report: &mut StepReport) -> Result<(), CommandFailure> {
        let mut client = report.step("connect", self.connect(None)).await?;
        report.step("subscribe", client.subscribe()).await?;
        let user = client.user.clone();
        let first = report.step("publish", self.publish(&user, 1)).await?;
        report.step("receive", client.receive(&first)).await?;
        report.step("disconnect", client.leave()).await?;
        let second = report.step("publish meanwhile", self.publish(&user, 2)).await?;
        let mut client = report.step("connect again", self.connect(Some(&first))).await?;
        report.step("resume", client.resume(&first, &second)).await?;
        report.step("disconnect again", client.leave()).await
    }

    /// Connects; if a message was received before, resumes after it.
    async fn connect(&self, after: Option<&SentPublication>) -> Result<(String, CheckClient), CommandFailure> {
        let builder = Builder::new(&self.endpoint).token(&self.token);
        let resumed = after.map(|sent| Channel::new(CHANNEL).since(sent.id.to_string()));
        let (client, driver) = builder.channels(resumed).build();
        let mut follower = CheckClient { client, driver: Box::pin(driver.run()), user: String::new() };
        let Event::Connected { user: Some(user), .. } = follower.next().await? else {
            return Err(CommandFailure::new(format!("{ENDPOINT} requires a user")));
        };
        follower.user.clone_from(&user);
        Ok((format!("{} as {user}", self.endpoint), follower))
    }

    async fn publish(&self, user: &str, number: u32) -> Result<(String, SentPublication), CommandFailure> {
        let data = json!({ "type": "check", "mark": self.mark, "number": number });
        let raw = RawValue::from_string(data.to_string()).map_err(|error| CommandFailure::new(error.to_string()))?;
        let publication = PublicationRequest { channel: CHANNEL, user: Some(user), data: &raw, msg_id: None };
        let published = publication.publish(&self.operations, Some(&self.api_key)).await?;
        let Some(id) = published.id else {
            return Err(CommandFailure::new(format!(
                "`{CHANNEL}` is not retained: missed messages cannot be replayed"
            )));
        };
        Ok((id.to_string(), SentPublication { id, data }))
    }
}

/// A token for a user that nothing else uses.
fn made_up_token(signer: &Signer, mark: &str) -> Result<String, CommandFailure> {
    let wrong = |error: &dyn std::fmt::Display| CommandFailure::new(error.to_string());
    let user = UserId::new(&format!("check-{mark}")).map_err(|error| wrong(&error))?;
    let channels = vec![Pattern::new(CHANNEL).map_err(|error| wrong(&error))?];
    let rights = Rights { channels: Some(channels), publish: Vec::new(), commands: false, runs: None };
    Ok(signer.sign(&user, &rights, TOKEN_TTL, SystemTime::now())?.0)
}

/// The published data and its id.
struct SentPublication {
    id: StreamId,
    data: Value,
}

/// One client of the user, and its driver.
struct CheckClient {
    client: Client,
    driver: Pin<Box<dyn Future<Output = ()>>>,
    user: String,
}

impl CheckClient {
    async fn subscribe(&mut self) -> Result<(String, ()), CommandFailure> {
        let handle = self.client.handle();
        self.drive(handle.subscribe([CHANNEL])).await;
        self.subscribed().await?;
        Ok((CHANNEL.to_owned(), ()))
    }

    /// Waits until the subscription is live: nothing older follows.
    async fn subscribed(&mut self) -> Result<bool, CommandFailure> {
        match self.next().await? {
            Event::Subscribed { live, .. } => Ok(live),
            Event::Refused { error, .. } => {
                Err(CommandFailure::new(format!("subscribing to `{CHANNEL}` failed: {error}")))
            }
            event => Err(CommandFailure::new(format!("expected `subscribed`, got {event:?}"))),
        }
    }

    async fn receive(&mut self, sent: &SentPublication) -> Result<(String, ()), CommandFailure> {
        is_publication(&self.next().await?, sent)?;
        Ok((sent.id.to_string(), ()))
    }

    /// Expects what followed the first message: the second, and nothing else.
    async fn resume(
        &mut self,
        first: &SentPublication,
        second: &SentPublication,
    ) -> Result<(String, ()), CommandFailure> {
        // A publication is acknowledged before every replica has seen it: a replica that has not delivers it live
        // instead of as replay.
        let live = self.subscribed().await?;
        is_publication(&self.next().await?, second)?;
        if !live {
            match self.next().await? {
                Event::CaughtUp { replayed: 1, complete: true, .. } => {}
                event => {
                    return Err(CommandFailure::new(format!(
                        "one message was missed, but the replay ended with {event:?}"
                    )));
                }
            }
        }
        let handle = self.client.handle();
        let fields = RawValue::from_string("{}".into()).map_err(|error| CommandFailure::new(error.to_string()))?;
        let pong = self.drive(handle.request("ping", &fields, PING_TIMEOUT)).await;
        pong.map_err(|error| CommandFailure::new(format!("no pong: {error}")))?;
        match self.next().now_or_never() {
            None => Ok((format!("{} after {}, complete", second.id, first.id), ())),
            Some(more) => Err(CommandFailure::new(format!("received more than was missed: {:?}", more?))),
        }
    }

    async fn leave(mut self) -> Result<(String, ()), CommandFailure> {
        let handle = self.client.handle();
        self.drive(handle.stop()).await;
        while self.next().await.is_ok() {}
        Ok((String::new(), ()))
    }

    /// The next event that is not a state change; a lost connection is a failure.
    async fn next(&mut self) -> Result<Event, CommandFailure> {
        loop {
            let event = tokio::select! {
                biased;
                event = self.client.next() => event,
                () = &mut self.driver => continue,
            };
            match event {
                Some(Event::State(ClientState::Waiting { error, .. } | ClientState::Closed { error: Some(error) })) => {
                    return Err(error.into());
                }
                Some(Event::State(_)) => {}
                Some(event) => return Ok(event),
                None => return Err(CommandFailure::new("the client stopped")),
            }
        }
    }

    /// Runs a future while the client works.
    async fn drive<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        tokio::select! {
            done = &mut work => return done,
            () = &mut self.driver => {}
        }
        work.await
    }
}

/// Compares a message with the published one: same id, same text.
fn is_publication(event: &Event, sent: &SentPublication) -> Result<(), CommandFailure> {
    let Event::Message(message) = event else {
        return Err(CommandFailure::new(format!("expected {}, got {event:?}", sent.id)));
    };
    let data: Value = serde_json::from_str(&message.payload()).unwrap_or_default();
    if data == sent.data && message.meta.id == Some(sent.id.to_string()) && message.meta.channel == CHANNEL {
        return Ok(());
    }
    Err(CommandFailure::new(format!("expected {}, got {}", sent.id, message.text)))
}

/// Prints one line per step.
struct StepReport {
    json: bool,
    steps: u32,
    doing: &'static str,
}

impl StepReport {
    /// Runs a step, prints its result, and returns its value.
    async fn step<T>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<(String, T), CommandFailure>>,
    ) -> Result<T, CommandFailure> {
        self.doing = name;
        let began = Instant::now();
        let outcome = work.await;
        let took = began.elapsed();
        self.steps += 1;
        match outcome {
            Ok((detail, made)) => {
                self.line(name, true, &detail, took)?;
                Ok(made)
            }
            Err(failure) => Err(self.failed(&failure, took)),
        }
    }

    /// The step did not finish.
    fn late(&self, timeout: Duration) -> CommandFailure {
        self.failed(&CommandFailure::new(format!("timed out after {timeout:?}")), timeout)
    }

    fn failed(&self, failure: &CommandFailure, took: Duration) -> CommandFailure {
        let name = self.doing;
        match self.line(name, false, &failure.text, took) {
            Ok(()) => CommandFailure { text: format!("failed to {name}"), ..*failure },
            Err(unprinted) => unprinted,
        }
    }

    fn line(&self, name: &str, ok: bool, detail: &str, took: Duration) -> Result<(), CommandFailure> {
        if self.json {
            let step = json!({ "step": name, "ok": ok, "detail": detail, "seconds": took.as_secs_f64() });
            return print(&step.to_string());
        }
        let word = if ok { "ok" } else { "FAIL" };
        print(format!("{word:<5} {name:<18} {:>6} ms  {detail}", took.as_millis()).trim_end())
    }

    fn passed(&self, took: Duration) -> Result<(), CommandFailure> {
        if self.json {
            return print(&json!({ "ok": true, "steps": self.steps, "seconds": took.as_secs_f64() }).to_string());
        }
        print(&format!("all steps passed: {} in {:.2} s", self.steps, took.as_secs_f64()))
    }
}
