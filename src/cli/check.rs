//! `tickgate check`: walks the whole way through a running gateway, as a client and as a publisher, and says at which step
//! it fails. Never touches a real user's messages: it makes a token for one of its own.

use std::{
    future::Future,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json, value::RawValue};
use tickgate_client::{Opening, Publication, Socket};
use tickgate_wire::model::{Pattern, StreamId, UserId};

use super::{Failure, print, settings::Settings, token::Signer};
use crate::{
    auth::Rights,
    config::{Config, parse_duration},
};

const EXAMPLES: &str = r#"Examples:
  tickgate check ws://gw.example.com:8000 --ops http://gw-ops:8001 --config a.toml
  tickgate check --secret "$SECRET" --api-key "$KEY" --json
  tickgate check --token "$TOKEN" --api-key "$KEY"

A line a step: connect, subscribe, publish, receive, disconnect, publish meanwhile,
come back and get exactly what was missed. Ends with 0, or 1 at the step that
failed. The secret and the API key come from the configuration of the gateway, or
from the flags; the user is made up, unless you give the token of one that nobody
else publishes to (where no HS256 secret is configured)."#;

/// The endpoint, and the private channel of it that is used.
const ENDPOINT: &str = "/ws/trading";
const CHANNEL: &str = "orders";
const TOKEN_TTL: Duration = Duration::from_secs(300);

/// Check a running gateway: connect, publish, receive, come back, miss nothing
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The public listener, or what stands in front of it
    #[arg(default_value = "ws://127.0.0.1:8000")]
    url: String,
    /// Operations listener of any replica
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8001")]
    ops: String,
    /// HS256 secret; left out: the first configured one
    #[arg(long)]
    secret: Option<String>,
    /// A token, where none can be made
    #[arg(long, env = "TICKGATE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// API key; left out: the first configured one
    #[arg(long, env = "TICKGATE_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// How long all of it may take
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
    /// Print a JSON object a step
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let began = Instant::now();
    let gateway = Gateway::of(&args)?;
    let mut report = Report { json: args.json, steps: 0, doing: "connect" };
    match tokio::time::timeout(args.timeout, gateway.walk(&mut report)).await {
        Ok(Ok(())) => report.passed(began.elapsed()),
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(report.late(args.timeout)),
    }
}

/// What is checked, and what opens it.
struct Gateway {
    endpoint: String,
    operations: String,
    token: String,
    api_key: String,
    /// Sets this check's messages apart.
    mark: String,
}

impl Gateway {
    fn of(args: &Args) -> Result<Self, Failure> {
        let mark = uuid::Uuid::new_v4().simple().to_string();
        let complete = (args.secret.is_some() || args.token.is_some()) && args.api_key.is_some();
        let config = if complete { None } else { Some(Config::load(&args.settings.sources())?.0) };
        let token = match (&args.secret, &args.token, &config) {
            (Some(secret), ..) => made_up_token(&Signer::of_secret(secret), &mark)?,
            (None, Some(token), _) => token.clone(),
            (None, None, config) => {
                let config = config.as_ref().ok_or_else(|| Failure::usage("no secret: give one by --secret"))?;
                made_up_token(&Signer::of_configured(config)?, &mark)?
            }
        };
        let configured = config.as_ref().and_then(|config| config.auth.api_keys.first());
        let api_key = args.api_key.clone().or_else(|| configured.map(|key| key.expose().to_owned()));
        let api_key = api_key.ok_or_else(|| Failure::usage("no API key: give one by --api-key or --config"))?;
        let endpoint = format!("{}{ENDPOINT}", args.url.trim_end_matches('/'));
        Ok(Self { endpoint, operations: args.ops.clone(), token, api_key, mark })
    }

    async fn walk(&self, report: &mut Report) -> Result<(), Failure> {
        let mut client = report.step("connect", self.connect()).await?;
        report.step("subscribe", client.subscribe()).await?;
        let user = client.user.clone();
        let first = report.step("publish", self.publish(&user, 1)).await?;
        report.step("receive", client.receive(&first)).await?;
        report.step("disconnect", client.leave()).await?;
        let second = report.step("publish meanwhile", self.publish(&user, 2)).await?;
        let mut client = report.step("connect again", self.connect()).await?;
        report.step("resume", client.resume(&first, &second)).await?;
        report.step("disconnect again", client.leave()).await
    }

    async fn connect(&self) -> Result<(String, Client), Failure> {
        let socket = Opening::to(&self.endpoint).token(&self.token).open().await?;
        let mut client = Client { socket, user: String::new() };
        let welcome = client.expect("connection_established").await?;
        let Some(user) = welcome["user"].as_str() else {
            return Err(Failure::new(format!("{ENDPOINT} knows no user: {welcome}")));
        };
        client.user = user.to_owned();
        Ok((format!("{} as {user}", self.endpoint), client))
    }

    async fn publish(&self, user: &str, number: u32) -> Result<(String, Sent), Failure> {
        let data = json!({ "type": "check", "mark": self.mark, "number": number });
        let raw = RawValue::from_string(data.to_string()).map_err(|error| Failure::new(error.to_string()))?;
        let publication = Publication { channel: CHANNEL, user: Some(user), data: &raw, msg_id: None };
        let published = publication.publish(&self.operations, Some(&self.api_key)).await?;
        let Some(id) = published.id else {
            return Err(Failure::new(format!("`{CHANNEL}` is not retained: what was missed can't be replayed")));
        };
        Ok((id.to_string(), Sent { id, data }))
    }
}

/// A token for a user that nobody else speaks for.
fn made_up_token(signer: &Signer, mark: &str) -> Result<String, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::new(error.to_string());
    let user = UserId::new(&format!("check-{mark}")).map_err(|error| wrong(&error))?;
    let channels = vec![Pattern::new(CHANNEL).map_err(|error| wrong(&error))?];
    let rights = Rights { channels: Some(channels), publish: Vec::new(), commands: false };
    Ok(signer.sign(&user, &rights, TOKEN_TTL, SystemTime::now())?.0)
}

/// What was published, and under which id.
struct Sent {
    id: StreamId,
    data: Value,
}

/// One connection as the user.
struct Client {
    socket: Socket,
    user: String,
}

impl Client {
    async fn subscribe(&mut self) -> Result<(String, ()), Failure> {
        let subscribed = self.ask(json!({ "type": "subscribe", "channels": [CHANNEL] }), "subscribed").await?;
        accepted(&subscribed)?;
        Ok((CHANNEL.to_owned(), ()))
    }

    async fn receive(&mut self, sent: &Sent) -> Result<(String, ()), Failure> {
        let push = self.next().await?;
        is_publication(&push, sent)?;
        Ok((sent.id.to_string(), ()))
    }

    /// What came after the first: the second, and nothing else.
    async fn resume(&mut self, first: &Sent, second: &Sent) -> Result<(String, ()), Failure> {
        let request = json!({ "type": "subscribe", "channels": [{ "channel": CHANNEL, "since": first.id }] });
        let subscribed = self.ask(request, "subscribed").await?;
        accepted(&subscribed)?;
        let push = self.next().await?;
        is_publication(&push, second)?;
        let caught_up = self.expect("caught_up").await?;
        let channel = &caught_up["channels"][0];
        if channel["complete"] != true || channel["replayed"] != 1 {
            return Err(Failure::new(format!("one message was missed, and the end of the replay is {channel}")));
        }
        self.ask(json!({ "type": "ping" }), "pong").await?;
        Ok((format!("{} replayed after {}, complete", second.id, first.id), ()))
    }

    async fn leave(self) -> Result<(String, ()), Failure> {
        self.socket.close().await?;
        Ok((String::new(), ()))
    }

    async fn ask(&mut self, request: Value, kind: &str) -> Result<Value, Failure> {
        self.socket.send(request.to_string()).await?;
        self.expect(kind).await
    }

    /// The next message, which has to be of this type.
    async fn expect(&mut self, kind: &str) -> Result<Value, Failure> {
        let message = self.next().await?;
        if message["type"] == kind { Ok(message) } else { Err(Failure::new(format!("not `{kind}` but {message}"))) }
    }

    /// The next message that is no heartbeat.
    async fn next(&mut self) -> Result<Value, Failure> {
        loop {
            let text = self.socket.next().await?;
            let message: Value =
                serde_json::from_str(&text).map_err(|error| Failure::new(format!("not JSON: {error}")))?;
            if message["type"] != "heartbeat" {
                return Ok(message);
            }
        }
    }
}

/// The channel of a `subscribed`.
fn accepted(subscribed: &Value) -> Result<&Value, Failure> {
    match subscribed["channels"].get(0) {
        Some(channel) => Ok(channel),
        None => Err(Failure::new(format!("`{CHANNEL}` was refused: {}", subscribed["errors"]))),
    }
}

/// A push is what was published, under the same id, to the last character.
fn is_publication(push: &Value, sent: &Sent) -> Result<(), Failure> {
    let mut data = push.clone();
    let meta = data.as_object_mut().and_then(|fields| fields.remove("_meta")).unwrap_or_default();
    if data == sent.data && meta["id"] == json!(sent.id) && meta["channel"] == CHANNEL {
        return Ok(());
    }
    Err(Failure::new(format!("not {} but {push}", sent.id)))
}

/// A line a step.
struct Report {
    json: bool,
    steps: u32,
    doing: &'static str,
}

impl Report {
    /// Does a step, prints what became of it, and hands on what it made.
    async fn step<T>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<(String, T), Failure>>,
    ) -> Result<T, Failure> {
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

    /// The step did not end.
    fn late(&self, timeout: Duration) -> Failure {
        self.failed(&Failure::new(format!("not done within {timeout:?}")), timeout)
    }

    fn failed(&self, failure: &Failure, took: Duration) -> Failure {
        let name = self.doing;
        match self.line(name, false, &failure.text, took) {
            Ok(()) => Failure { text: format!("failed to {name}"), ..*failure },
            Err(unprinted) => unprinted,
        }
    }

    fn line(&self, name: &str, ok: bool, detail: &str, took: Duration) -> Result<(), Failure> {
        if self.json {
            let step = json!({ "step": name, "ok": ok, "detail": detail, "seconds": took.as_secs_f64() });
            return print(&step.to_string());
        }
        let word = if ok { "ok" } else { "FAIL" };
        print(format!("{word:<5} {name:<18} {:>6} ms  {detail}", took.as_millis()).trim_end())
    }

    fn passed(&self, took: Duration) -> Result<(), Failure> {
        if self.json {
            return print(&json!({ "ok": true, "steps": self.steps, "seconds": took.as_secs_f64() }).to_string());
        }
        print(&format!("all well: {} steps in {:.2} s", self.steps, took.as_secs_f64()))
    }
}
