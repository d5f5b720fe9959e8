//! A complete replica: real listeners on free loopback ports, within the test's process with its own runtime (so that
//! it can be killed), or as a process as in production.

use std::{
    io::Write,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::SystemTime,
};

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tickgate::{
    app::{App, Reload},
    auth::{NewToken, Rights, mint},
    config::{Config, ConfigSources, Secret},
    connection::drain::DrainPace,
};
use tickgate_wire::model::{IssuedAt, Pattern, UserId};
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    time::timeout,
};

use crate::{
    PATIENCE,
    certificates::Authority,
    client::{ConnectRequest, TestClient},
    eventually,
    http::{self, TestResponse},
    redis::RedisServer,
};

/// Signs all tokens of the tests.
pub const SECRET: &str = "a-secret-that-only-the-tests-know-of-1234567890";
/// The API key of all replicas in the tests.
pub const API_KEY: &str = "an-api-key-that-only-the-tests-know-of-123456789";

/// Name of the threads that replicas run on.
pub const REPLICA_THREAD: &str = "replica";

/// A running replica.
pub struct TestReplica {
    host: Host,
    public: SocketAddr,
    operations: SocketAddr,
    /// The authority of both listeners' certificates, if they use TLS.
    authority: Option<String>,
}

/// Where a replica runs.
enum Host {
    Inside { runtime: Option<Runtime>, shutdown: Option<oneshot::Sender<()>>, ended: Option<oneshot::Receiver<()>> },
    Process(Process),
}

impl TestReplica {
    /// A replica over memory, in development mode.
    pub async fn alone() -> Self {
        Self::alone_with("").await
    }

    /// The same with settings, as in a configuration file.
    pub async fn alone_with(settings: &str) -> Self {
        Self::start(None, settings).await
    }

    /// One of several replicas on a Redis.
    pub async fn on(redis: &RedisServer) -> Self {
        Self::on_with(redis, "").await
    }

    /// The same with settings, as in a configuration file.
    pub async fn on_with(redis: &RedisServer, settings: &str) -> Self {
        Self::start(Some(redis.url()), settings).await
    }

    /// One of several replicas on a Redis, as a separate process.
    pub async fn process(redis: &RedisServer, settings: &str) -> Self {
        Self::unready_process(&redis.url(), settings).await.ready(true).await
    }

    /// A process that uses this Redis address, as soon as it listens.
    pub async fn unready_process(redis_url: &str, settings: &str) -> Self {
        Self::spawn(Command::new(crate::program()), redis_url, settings).await
    }

    /// A process, optionally with a deliberate defect, and with additional arguments.
    pub async fn process_with(redis: &RedisServer, settings: &str, defect: Option<&str>, arguments: &[&str]) -> Self {
        let mut program = Command::new(crate::program());
        program.envs(defect.map(|defect| ("TICKGATE_TEST_DEFECT", defect)));
        let (process, public, operations) = Process::start(program, &redis.url(), settings, arguments).await;
        Self { host: Host::Process(process), public, operations, authority: None }.ready(true).await
    }

    /// A process with these variables in its environment.
    pub async fn process_in(redis: &RedisServer, settings: &str, environment: &[(&str, &str)]) -> Self {
        let mut program = Command::new(crate::program());
        program.envs(environment.iter().copied());
        Self::spawn(program, &redis.url(), settings).await.ready(true).await
    }

    /// A process with this limit of file descriptors, both soft and hard.
    pub async fn limited_process(redis: &RedisServer, settings: &str, [soft, hard]: [u32; 2]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"")]);
        shell.arg(crate::program());
        Self::spawn(shell, &redis.url(), settings).await.ready(true).await
    }

    /// A process whose listeners both use TLS, with certificates of this authority.
    pub async fn secure_process(redis: &RedisServer, settings: &str, authority: &Authority) -> Self {
        let (process, public, operations) =
            Process::start(Command::new(crate::program()), &redis.url(), settings, &[]).await;
        let authority = Some(std::fs::read_to_string(authority.file()).expect("an authority"));
        Self { host: Host::Process(process), public, operations, authority }.ready(true).await
    }

    async fn spawn(program: Command, redis_url: &str, settings: &str) -> Self {
        let (process, public, operations) = Process::start(program, redis_url, settings, &[]).await;
        Self { host: Host::Process(process), public, operations, authority: None }
    }

    async fn start(redis: Option<String>, settings: &str) -> Self {
        crate::log::capture();
        let settings = file_of(settings);
        let (config, reload) = config(redis.as_deref(), &settings);
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(REPLICA_THREAD)
            .enable_all()
            .build()
            .expect("a runtime");
        let (built, addresses) = oneshot::channel();
        let (shutdown, asked) = oneshot::channel();
        let (over, ended) = oneshot::channel();
        runtime.handle().spawn(async move {
            // Kept because it may be read again.
            let _settings = settings;
            let app = App::build(config).await.expect("a replica").reloading(reload);
            let _ = built.send((app.addresses().public, app.addresses().operations));
            app.run(async {
                let _ = asked.await;
                DrainPace::Configured
            })
            .await
            .expect("a replica with all its parts");
            let _ = over.send(());
        });
        let (public, operations) = addresses.await.expect("the replica to be built");
        let host = Host::Inside { runtime: Some(runtime), shutdown: Some(shutdown), ended: Some(ended) };
        Self { host, public, operations, authority: None }.ready(redis.is_some()).await
    }

    async fn ready(self, over_redis: bool) -> Self {
        eventually("the replica to be ready", async || {
            let ready = self.get("/readyz").await.status == 200;
            let linked = !over_redis || self.metric("tickgate_redis_up").await >= 2.0;
            let counted = !over_redis || self.metric("tickgate_replicas").await >= 1.0;
            (ready && linked && counted).then_some(())
        })
        .await;
        self
    }

    /// Asks the replica to stop, by SIGTERM if it is a process.
    pub fn drain(&mut self) {
        match &mut self.host {
            Host::Inside { shutdown, .. } => {
                if let Some(shutdown) = shutdown.take() {
                    let _ = shutdown.send(());
                }
            }
            Host::Process(process) => process.signal("TERM"),
        }
    }

    /// Waits for the end of a drain; a process must exit with success.
    pub async fn ended(mut self) {
        match &mut self.host {
            Host::Inside { ended, .. } => {
                let ended = ended.take().expect("to be awaited once");
                timeout(PATIENCE, ended).await.expect("the drain to end").expect("no panic");
            }
            Host::Process(process) => {
                let status = eventually("the process to end", async || process.child.try_wait().unwrap()).await;
                assert!(status.success(), "{status}\n{}", process.log());
            }
        }
    }

    /// Ends the replica at once without a drain, by SIGKILL if it is a process.
    pub fn kill(mut self) {
        match &mut self.host {
            Host::Inside { runtime, .. } => runtime.take().expect("a living replica").shutdown_background(),
            Host::Process(process) => process.child.kill().expect("a living process"),
        }
    }

    /// Sends a signal to the process, by its name without `SIG`.
    pub fn signal(&self, name: &str) {
        self.of_process().signal(name);
    }

    /// The file of the process's settings.
    pub fn settings_file(&self) -> String {
        self.of_process().settings.path().display().to_string()
    }

    /// Writes new settings to the process's file.
    pub fn write_settings(&self, settings: &str) {
        std::fs::write(self.of_process().settings.path(), settings).expect("the settings to be written");
    }

    /// Suspends the process, by SIGSTOP.
    pub fn freeze(&self) {
        self.of_process().signal("STOP");
    }

    /// Resumes the process, by SIGCONT.
    pub fn thaw(&self) {
        self.of_process().signal("CONT");
    }

    /// What the process wrote so far: its greeting and its log.
    pub fn log(&self) -> String {
        self.of_process().log()
    }

    fn of_process(&self) -> &Process {
        match &self.host {
            Host::Process(process) => process,
            Host::Inside { .. } => panic!("only a process can be stopped"),
        }
    }

    /// The address of metrics and the API.
    pub const fn operations(&self) -> SocketAddr {
        self.operations
    }

    /// The address of the public listener.
    pub const fn address(&self) -> SocketAddr {
        self.public
    }

    /// The address of the operations listener.
    pub const fn operations_address(&self) -> SocketAddr {
        self.operations
    }

    /// A connection to open at the path.
    pub fn connect(&self, path: &str) -> ConnectRequest {
        ConnectRequest::new(self.public, path)
    }

    /// The user at `/ws/trading`, after the welcome.
    pub async fn trading(&self, user: &str) -> TestClient {
        let mut client = self.connect("/ws/trading").token(&token(user)).name(user).open().await;
        client.greeted().await;
        client
    }

    /// Two connections of a user at `/ws/trading`, greeted: of the implicit mode, and of the explicit one.
    pub async fn trading_in_both_modes(&self, user: &str) -> [TestClient; 2] {
        let offer = format!("tickgate.v1, bearer.{}", token(user));
        let explicit = self.connect("/ws/trading").header("sec-websocket-protocol", &offer).name(user);
        let mut explicit = explicit.open().await;
        explicit.greeted().await;
        [self.trading(user).await, explicit]
    }

    /// A client at `/ws/market`, after the welcome.
    pub async fn market(&self) -> TestClient {
        let mut client = self.connect("/ws/market").open().await;
        client.greeted().await;
        client
    }

    /// A client at `/ws`, subscribed after the welcome.
    pub async fn events(&self) -> TestClient {
        self.subscribed_at("/ws").await
    }

    /// A client that follows a run, subscribed after the welcome.
    pub async fn run(&self, path: &str) -> TestClient {
        self.subscribed_at(path).await
    }

    async fn subscribed_at(&self, path: &str) -> TestClient {
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

    /// Publishes through the API; returns the id of the publication.
    pub async fn publish(&self, channel: &str, data: Value) -> Value {
        self.publish_as(json!({ "channel": channel, "data": data })).await
    }

    /// Publishes to a user's private channel through the API; returns the id of the publication.
    pub async fn publish_to(&self, user: &str, channel: &str, data: Value) -> Value {
        self.publish_as(json!({ "channel": channel, "user": user, "data": data })).await
    }

    async fn publish_as(&self, publication: Value) -> Value {
        let answer = self.api_post("/api/v1/publish", publication).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["id"].clone()
    }

    /// `GET` on the public listener.
    pub async fn get(&self, path: &str) -> TestResponse {
        self.ask(self.public, "GET", path, &[], None).await
    }

    /// `GET` on the operations listener, with the API key.
    pub async fn api_get(&self, path: &str) -> TestResponse {
        self.ask(self.operations, "GET", path, &[("x-api-key", API_KEY)], None).await
    }

    /// `POST` of JSON on the operations listener, with the API key.
    pub async fn api_post(&self, path: &str, body: Value) -> TestResponse {
        let headers = [("x-api-key", API_KEY), ("content-type", "application/json")];
        self.ask(self.operations, "POST", path, &headers, Some(body.to_string())).await
    }

    /// Any request on the operations listener.
    pub async fn api(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<String>) -> TestResponse {
        self.ask(self.operations, method, path, headers, body).await
    }

    async fn ask(
        &self,
        address: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> TestResponse {
        match &self.authority {
            None => http::send(address, method, path, headers, body).await,
            Some(authority) => {
                let request = http::secure_request(address, method, path, headers).authorities(authority.clone());
                http::answer(request.body(body.unwrap_or_default())).await
            }
        }
    }

    /// The sum of a metric over the series with the given labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let answer = self.api_get("/metrics").await;
        let (name, labels) = name.split_once('{').unwrap_or((name, ""));
        let labels: Vec<_> = labels.trim_end_matches('}').split(',').collect();
        let own = |line: &&str| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '{']));
            rest.is_some_and(|rest| labels.iter().all(|label| rest.contains(label)))
        };
        answer.body.lines().filter(own).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

impl Drop for TestReplica {
    fn drop(&mut self) {
        if let Host::Inside { runtime, .. } = &mut self.host
            && let Some(runtime) = runtime.take()
        {
            runtime.shutdown_background();
        }
        if let Some(line) = crate::log::leaked()
            && !std::thread::panicking()
        {
            panic!("a secret is in the log: {line}");
        }
    }
}

/// Settings of all replicas in the tests. They wait longer for Redis than production ones: on a busy machine a second
/// without a response is not a fault. Tests of silence add [`IMPATIENT`].
const SETTINGS: [(&str, &str); 11] = [
    ("server.listen", "127.0.0.1:0"),
    ("server.ops_listen", "127.0.0.1:0"),
    ("auth.hs256_secrets", SECRET),
    ("auth.api_keys", API_KEY),
    ("feeds.synthetic.enabled", "off"),
    ("drain.delay", "50ms"),
    ("drain.spread", "200ms"),
    ("redis.pool_wait_timeout", "10s"),
    ("redis.connect_timeout", "10s"),
    ("redis.response_timeout", "10s"),
    ("redis.canary_timeout", "10s"),
];

/// Settings of a replica for which a second of silence is a fault of Redis, as by default.
pub const IMPATIENT: &str = "[redis]\nconnect_timeout = \"1s\"\nresponse_timeout = \"1s\"\ncanary_timeout = \"2s\"\n";

/// Settings that the test does not set itself.
fn defaults(settings: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let named = |key: &str| {
        let (section, name) = key.rsplit_once('.').expect("a section");
        settings.contains(&format!("[{section}]")) && settings.contains(&format!("\n{name} = "))
    };
    SETTINGS.into_iter().filter(move |(key, _)| !named(key))
}

fn file_of(settings: &str) -> NamedTempFile {
    let mut file = NamedTempFile::with_suffix(".toml").expect("a temporary file");
    file.write_all(settings.as_bytes()).expect("the settings to be written");
    file
}

fn config(redis: Option<&str>, file: &NamedTempFile) -> (Config, Reload) {
    let settings = &*std::fs::read_to_string(file.path()).expect("the settings");
    let mut sources = ConfigSources { file: Some(file.path().to_owned()), ..ConfigSources::default() };
    for (key, value) in defaults(settings) {
        sources = sources.flag("", key, value);
    }
    if !settings.contains("allowed_origins =") {
        sources = sources.flag("", "server.allowed_origins", "*");
    }
    if !settings.contains("mode =") {
        sources = sources.flag("", "server.mode", "development");
    }
    if let Some(redis) = redis {
        sources = sources.flag("", "redis.url", redis);
    }
    let since = SystemTime::now();
    match Config::load(&sources) {
        Ok((config, effective)) => (config, Reload::new(sources, effective, since)),
        Err(problems) => panic!("the test's settings are invalid: {problems}"),
    }
}

/// The program itself, as shipped.
struct Process {
    child: Child,
    /// The file of its log.
    log: NamedTempFile,
    settings: NamedTempFile,
}

impl Process {
    /// Starts it, and reads its addresses from its greeting.
    async fn start(
        mut command: Command,
        redis_url: &str,
        settings: &str,
        arguments: &[&str],
    ) -> (Self, SocketAddr, SocketAddr) {
        let (file, log) = (file_of(settings), NamedTempFile::new().expect("a temporary file"));
        command
            .args(["serve", "--development", "--config"])
            .arg(file.path())
            .args(["--redis", redis_url])
            .args(arguments);
        if !settings.contains("allowed_origins =") {
            command.env("TICKGATE__SERVER__ALLOWED_ORIGINS", "*");
        }
        for (key, value) in defaults(settings) {
            command.env(format!("TICKGATE__{}", key.replace('.', "__").to_uppercase()), value);
        }
        let output = log.reopen().expect("the log");
        command.stdin(Stdio::null()).stdout(output.try_clone().expect("the log")).stderr(output);
        let child = command.spawn().expect("the program to start");
        let process = Self { child, log, settings: file };
        let address = |log: &str, mark: &str| {
            let (_, rest) = log.split_once(mark)?;
            rest.split([' ', '\n']).next()?.parse::<SocketAddr>().ok()
        };
        let (public, operations) = eventually("the greeting", async || {
            let log = process.log();
            let public = address(&log, " ws://").or_else(|| address(&log, " wss://"))?;
            Some((public, address(&log, " http://").or_else(|| address(&log, " https://"))?))
        })
        .await;
        (process, public, operations)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap_or_default()
    }

    fn signal(&self, name: &str) {
        // The shell's own `kill`: not every machine has the program.
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIG{name} was not sent");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the replica said:\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A token of the user with the rights that every user has.
pub fn token(user: &str) -> String {
    TokenBuilder::of(user).sign()
}

/// A token builder.
pub struct TokenBuilder<'a> {
    user: &'a str,
    rights: Rights,
    /// Seconds from now; may be in the past.
    expires_in: i64,
    issued_at: Option<IssuedAt>,
}

impl<'a> TokenBuilder<'a> {
    /// A token for the user.
    pub fn of(user: &'a str) -> Self {
        Self { user, rights: Rights::default(), expires_in: 3_600, issued_at: None }
    }

    /// The time of issue, by default a second ago.
    pub fn issued_at(mut self, issued_at: IssuedAt) -> Self {
        self.issued_at = Some(issued_at);
        self
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

    /// Runs that may be followed and, with commands, commanded.
    pub fn runs(mut self, patterns: &[&str]) -> Self {
        self.rights.runs = Some(self::patterns(patterns));
        self
    }

    /// Sets the lifetime.
    pub fn expires_in(mut self, seconds: i64) -> Self {
        self.expires_in = seconds;
        self
    }

    /// The signed token.
    pub fn sign(self) -> String {
        self.sign_by(SECRET)
    }

    /// Signed with a secret other than that of all replicas.
    pub fn sign_by(self, secret: &str) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let token = NewToken {
            user: &UserId::new(self.user).unwrap(),
            issued_at: self.issued_at.unwrap_or_else(|| IssuedAt::in_second(now.saturating_sub(1))),
            expires_at: now.saturating_add_signed(self.expires_in),
            issuer: None,
            audience: None,
            user_claim: None,
            rights: &self.rights,
        };
        mint(&Secret::new(secret), &token).expect("a token")
    }
}

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::new(text).expect("a pattern")).collect()
}
