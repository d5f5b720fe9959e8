//! A whole replica inside of the test's process: real listeners on free ports of loopback, a runtime of its own, so
//! that it can also be killed.

use std::{io::Write, net::SocketAddr, time::SystemTime};

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tickgate::{
    app::App,
    auth::{NewToken, Rights, mint},
    config::{Config, Secret, Sources},
    model::{Pattern, UserId},
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    time::timeout,
};

use super::{
    PATIENCE,
    client::{Client, Request},
    eventually,
    http::{self, Answer},
    redis::RedisServer,
};

/// Signs all tokens of the tests.
pub const SECRET: &str = "a-secret-that-only-the-tests-know-of-1234567890";
/// The API key of all replicas of the tests.
pub const API_KEY: &str = "an-api-key-that-only-the-tests-know-of-123456789";

pub struct Replica {
    runtime: Option<Runtime>,
    public: SocketAddr,
    operations: SocketAddr,
    shutdown: Option<oneshot::Sender<()>>,
    ended: Option<oneshot::Receiver<()>>,
}

impl Replica {
    /// A replica over memory, in development mode.
    pub async fn alone() -> Self {
        Self::alone_with("").await
    }

    /// The same with settings, written as in a configuration file.
    pub async fn alone_with(settings: &str) -> Self {
        Self::start(None, settings).await
    }

    /// One of several replicas on a Redis.
    pub async fn on(redis: &RedisServer) -> Self {
        Self::on_with(redis, "").await
    }

    /// The same with settings, written as in a configuration file.
    pub async fn on_with(redis: &RedisServer, settings: &str) -> Self {
        Self::start(Some(redis.url()), settings).await
    }

    async fn start(redis: Option<String>, settings: &str) -> Self {
        super::log::capture();
        let links = if redis.is_some() { 2.0 } else { 0.0 };
        let config = config(redis.as_deref(), settings);
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let (built, addresses) = oneshot::channel();
        let (shutdown, asked) = oneshot::channel();
        let (over, ended) = oneshot::channel();
        runtime.handle().spawn(async move {
            let app = App::build(config).await.expect("a replica");
            let _ = built.send((app.public_address().unwrap(), app.operations_address().unwrap()));
            app.run(async {
                let _ = asked.await;
            })
            .await;
            let _ = over.send(());
        });
        let (public, operations) = addresses.await.expect("the replica to be built");
        let replica = Self { runtime: Some(runtime), public, operations, shutdown: Some(shutdown), ended: Some(ended) };
        eventually("the replica to be ready", async || {
            let ready = replica.get("/readyz").await.status == 200;
            let counted = links == 0.0 || replica.metric("tickgate_replicas").await >= 1.0;
            (ready && counted && replica.metric("tickgate_redis_up").await >= links).then_some(())
        })
        .await;
        replica
    }

    /// Asks the replica to end, as SIGTERM does.
    pub fn drain(&mut self) {
        if let Some(shutdown) = self.shutdown.take() {
            let _ = shutdown.send(());
        }
    }

    /// Waits for the end of a drain.
    pub async fn ended(mut self) {
        let ended = self.ended.take().expect("to be awaited once");
        timeout(PATIENCE, ended).await.expect("the drain to end").expect("no panic");
    }

    /// Ends the replica at once and without a word, as SIGKILL does.
    pub fn kill(mut self) {
        self.runtime.take().expect("a living replica").shutdown_background();
    }

    pub const fn address(&self) -> SocketAddr {
        self.public
    }

    /// A connection to be opened at the path.
    pub fn connect(&self, path: &str) -> Request {
        Request::new(self.public, path)
    }

    /// The user at `/ws/trading`, greeted.
    pub async fn trading(&self, user: &str) -> Client {
        let mut client = self.connect("/ws/trading").token(&token(user)).name(user).open().await;
        client.greeted().await;
        client
    }

    /// Somebody at `/ws/market`, greeted.
    pub async fn market(&self) -> Client {
        let mut client = self.connect("/ws/market").open().await;
        client.greeted().await;
        client
    }

    /// Somebody at `/ws`, greeted and subscribed.
    pub async fn events(&self) -> Client {
        self.subscribed_at("/ws").await
    }

    /// Somebody who watches a run, greeted and subscribed.
    pub async fn run(&self, path: &str) -> Client {
        self.subscribed_at(path).await
    }

    async fn subscribed_at(&self, path: &str) -> Client {
        let mut client = self.connect(path).open().await;
        client.greeted().await;
        client.expect_type("subscribed").await;
        client
    }

    /// A single-use ticket for a token.
    pub async fn ticket(&self, token: &str) -> String {
        let bearer = format!("Bearer {token}");
        let answer = self.api("POST", "/api/v1/tickets", &[("authorization", &bearer)], None).await;
        answer.json()["ticket"].as_str().unwrap_or_else(|| panic!("no ticket: {answer:?}")).to_owned()
    }

    /// Publishes by the API; the id of the publication.
    pub async fn publish(&self, channel: &str, data: Value) -> Value {
        self.publish_as(json!({ "channel": channel, "data": data })).await
    }

    /// Publishes to a user's private channel by the API; the id of the publication.
    pub async fn publish_to(&self, user: &str, channel: &str, data: Value) -> Value {
        self.publish_as(json!({ "channel": channel, "user": user, "data": data })).await
    }

    async fn publish_as(&self, publication: Value) -> Value {
        let answer = self.api_post("/api/v1/publish", publication).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["id"].clone()
    }

    /// `GET` on the public listener.
    pub async fn get(&self, path: &str) -> Answer {
        http::send(self.public, "GET", path, &[], None).await
    }

    /// `GET` on the operations listener, with the API key.
    pub async fn api_get(&self, path: &str) -> Answer {
        http::send(self.operations, "GET", path, &[("x-api-key", API_KEY)], None).await
    }

    /// `POST` of JSON on the operations listener, with the API key.
    pub async fn api_post(&self, path: &str, body: Value) -> Answer {
        let headers = [("x-api-key", API_KEY), ("content-type", "application/json")];
        http::send(self.operations, "POST", path, &headers, Some(body.to_string())).await
    }

    /// Any request on the operations listener.
    pub async fn api(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<String>) -> Answer {
        http::send(self.operations, method, path, headers, body).await
    }

    /// The value of a metric, written with its labels; without them the sum over all.
    pub async fn metric(&self, name: &str) -> f64 {
        let answer = self.api_get("/metrics").await;
        let own = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        answer.body.lines().filter(own).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn config(redis: Option<&str>, settings: &str) -> Config {
    let mut file = NamedTempFile::with_suffix(".toml").expect("a temporary file");
    file.write_all(settings.as_bytes()).expect("the settings to be written");
    let mut sources = Sources { file: Some(file.path().to_owned()), ..Sources::default() };
    for (key, value) in [
        ("server.listen", "127.0.0.1:0"),
        ("server.ops_listen", "127.0.0.1:0"),
        ("auth.hs256_secrets", SECRET),
        ("auth.api_keys", API_KEY),
        ("feeds.synthetic.enabled", "off"),
        ("drain.delay", "50ms"),
        ("drain.spread", "200ms"),
    ] {
        sources = sources.flag("", key, value);
    }
    if !settings.contains("mode =") {
        sources = sources.flag("", "server.mode", "development");
    }
    if let Some(redis) = redis {
        sources = sources.flag("", "redis.url", redis);
    }
    match Config::load(&sources) {
        Ok((config, _)) => config,
        Err(problems) => panic!("the test's settings are wrong: {problems}"),
    }
}

/// A token of the user that allows what every user may.
pub fn token(user: &str) -> String {
    Token::of(user).sign()
}

/// A token in the making.
pub struct Token<'a> {
    user: &'a str,
    rights: Rights,
    /// Seconds from now; may lie in the past.
    expires_in: i64,
}

impl<'a> Token<'a> {
    pub fn of(user: &'a str) -> Self {
        Self { user, rights: Rights::default(), expires_in: 3_600 }
    }

    /// Only these channels may be subscribed.
    pub fn channels(mut self, patterns: &[&str]) -> Self {
        self.rights.channels = Some(self::patterns(patterns));
        self
    }

    /// These topics may be published to.
    pub fn publish(mut self, patterns: &[&str]) -> Self {
        self.rights.publish = self::patterns(patterns);
        self
    }

    /// Commands may be sent to runs.
    pub fn commands(mut self) -> Self {
        self.rights.commands = true;
        self
    }

    pub fn expires_in(mut self, seconds: i64) -> Self {
        self.expires_in = seconds;
        self
    }

    pub fn sign(self) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let token = NewToken {
            user: &UserId::new(self.user).unwrap(),
            issued_at: now.saturating_sub(1),
            expires_at: now.saturating_add_signed(self.expires_in),
            issuer: None,
            audience: None,
            rights: &self.rights,
        };
        mint(&Secret::new(SECRET), &token).expect("a token")
    }
}

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::new(text).expect("a pattern")).collect()
}
