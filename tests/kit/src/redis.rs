//! A redis-server for one test: its own port and directory, removed with the test.

use std::{
    fmt::Display,
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use redis::AsyncConnectionConfig;
use tempfile::TempDir;

use crate::PATIENCE;

/// The program to run instead of the `redis-server` in the path.
pub(crate) const PROGRAM: &str = "TICKGATE_TEST_REDIS_SERVER";

/// The configuration that operators use.
const SHIPPED_SETTINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/redis/redis.conf");
const SHIPPED_USERS: &str = include_str!("../../../deploy/redis/users.acl");

/// The tests' own user, with every right. Redis accepts no users on the command line together with an ACL file, and no
/// active shipped user may create another one, so the harness's line is appended to the shipped file.
const HARNESS_USER: &str = "user harness on nopass ~* &* +@all\n";

/// Authenticates the harness. A server without the shipped users refuses it and runs what follows as its default user.
pub const HARNESS_LOGIN: &str = "AUTH harness -";

/// A running server, or one that is not started yet.
pub struct RedisServer {
    child: Child,
    port: u16,
    dir: TempDir,
    arguments: Vec<String>,
    /// Directory of the users, for a server with the shipped ones: outside the directory that a restart may clear.
    users: Option<TempDir>,
    /// Where its clock is set, of a server that has one of its own.
    clock: Option<TempDir>,
}

impl RedisServer {
    /// A new server without persistence.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A new server with additional arguments, such as `["--appendonly", "yes"]`.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_on(None, arguments)
    }

    /// A fresh server whose clock is right until [`RedisServer::set_clock`].
    pub fn with_a_clock_of_its_own() -> Self {
        let clock = TempDir::with_prefix("tickgate-clock-").expect("a temporary directory");
        set_clock(&clock, 0);
        Self::start_on(Some(clock), &[])
    }

    fn start_on(clock: Option<TempDir>, arguments: &[&str]) -> Self {
        let dir = TempDir::with_prefix("tickgate-redis-").expect("a temporary directory");
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        // Another process may take the free port before the server binds it: then the next one is tried.
        for _ in 0..10 {
            let port = free_port();
            let mut child = spawn(&dir, port, &arguments, clock.as_ref());
            if wait_until_ready(&mut child, port) {
                return Self { child, port, dir, arguments, users: None, clock };
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("redis-server did not start:\n{}", log(&dir));
    }

    /// A new server with `deploy/redis/redis.conf`, the users of `deploy/redis/users.acl`, and additional arguments. It
    /// can replicate another server of this kind as the user `replica`.
    pub fn shipped(arguments: &[&str]) -> Self {
        let users = TempDir::with_prefix("tickgate-users-").expect("a temporary directory");
        let file = users.path().join("users.acl");
        fs::write(&file, format!("{SHIPPED_USERS}{HARNESS_USER}")).expect("the users to be written");
        let file = file.to_str().expect("a path in UTF-8");
        let mut all = vec![SHIPPED_SETTINGS, "--aclfile", file, "--masteruser", "replica"];
        all.extend(["--masterauth", password_of("replica")]);
        all.extend(arguments);
        let mut server = Self::start_with(&all);
        server.users = Some(users);
        server
    }

    /// A new server whose data survive a kill.
    pub fn durable() -> Self {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// A server that is not running yet: [`RedisServer::restart`] starts it.
    pub fn absent() -> Self {
        let mut server = Self::start();
        server.kill();
        server
    }

    /// Its port on loopback.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its data.
    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    /// The address for the tests: as the harness's own user if the shipped users exist.
    pub fn url(&self) -> String {
        let user = if self.users.is_some() { "harness:-@" } else { "" };
        format!("redis://{user}127.0.0.1:{}/", self.port)
    }

    /// Kills the server, like a crash.
    pub fn kill(&mut self) {
        self.child.kill().expect("redis-server to be running");
        self.child.wait().expect("redis-server to end");
    }

    /// Starts the server again after [`RedisServer::kill`], on the same port and directory.
    pub fn restart(&mut self) {
        self.child = spawn(&self.dir, self.port, &self.arguments, self.clock.as_ref());
        assert!(wait_until_ready(&mut self.child, self.port), "redis-server did not restart:\n{}", log(&self.dir));
    }

    /// Starts the server again with additional arguments, only this time.
    pub fn restart_with(&mut self, arguments: &[&str]) {
        let arguments: Vec<_> =
            self.arguments.iter().cloned().chain(arguments.iter().map(ToString::to_string)).collect();
        self.child = spawn(&self.dir, self.port, &arguments, self.clock.as_ref());
        assert!(wait_until_ready(&mut self.child, self.port), "redis-server did not restart:\n{}", log(&self.dir));
    }

    /// Kills the server and starts it without data.
    pub fn restart_empty(&mut self) {
        self.kill();
        clear(self.dir.path());
        self.restart();
    }

    /// Kills the server and starts it with only its last dump: what came after the last `SAVE` is lost. This lasts
    /// until `CONFIG SET appendonly yes`.
    pub fn restart_from_dump(&mut self) {
        self.kill();
        let log = self.dir.path().join("appendonlydir");
        if log.exists() {
            fs::remove_dir_all(log).expect("removed");
        }
        self.restart_with(&["--appendonly", "no"]);
    }

    /// A copy of the data on disk, for [`RedisServer::restart_from`].
    pub fn snapshot(&self) -> TempDir {
        let copy = TempDir::with_prefix("tickgate-redis-copy-").expect("a temporary directory");
        copy_tree(self.dir.path(), copy.path());
        copy
    }

    /// Kills the server and starts it with an older copy of its data: what came after the copy is lost.
    pub fn restart_from(&mut self, snapshot: &TempDir) {
        self.kill();
        clear(self.dir.path());
        copy_tree(snapshot.path(), self.dir.path());
        self.restart();
    }

    /// Suspends the process: its connections stay open and silent.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Resumes a suspended process.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    /// From now on its clock differs from the real time by this many seconds.
    pub fn set_clock(&self, seconds: i64) {
        set_clock(self.clock.as_ref().expect("a server with a clock of its own"), seconds);
    }

    /// Kills all connections of a type: `pubsub` or `normal`.
    pub async fn client_kill(&self, kind: &str) {
        self.run::<i64>(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).await;
    }

    /// Runs one command on its own connection.
    pub async fn run<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut connection = self.connect().await;
        let command = redis::cmd(words[0]).arg(&words[1..]).to_owned();
        command.query_async(&mut connection).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    fn signal(&self, signal: &str) {
        // The shell's builtin: a small machine may lack the program.
        let status = Command::new("sh").args(["-c", &format!("kill {signal} {}", self.child.id())]).status();
        assert!(status.expect("a shell").success(), "kill {signal}");
    }

    /// A connection for the test, to inspect what is stored.
    pub async fn connect(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url()).expect("a valid url");
        // The library gives up after half a second, which a busy machine sometimes exceeds.
        let patient =
            AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
        client.get_multiplexed_async_connection_with_config(&patient).await.expect("redis-server to answer")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("redis-server said:\n{}", log(&self.dir));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn clear(dir: &Path) {
    for entry in fs::read_dir(dir).expect("the directory").flatten() {
        let path = entry.path();
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.expect("removed");
    }
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("the directory").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&target).expect("a directory");
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("copied");
        }
    }
}

/// A loopback port that is free now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("the port to be known").port()
}

/// The address of a server for one of the shipped users.
pub fn url_of(user: &str, address: impl Display) -> String {
    format!("redis://{user}:{}@{address}/", password_of(user))
}

/// The password of a shipped user.
fn password_of(user: &str) -> &'static str {
    let mut words = SHIPPED_USERS
        .lines()
        .map(|line| line.split(' '))
        .find(|words| words.clone().nth(1) == Some(user))
        .expect("a shipped user");
    words.find_map(|word| word.strip_prefix('>')).expect("a password")
}

fn clock_file(clock: &TempDir) -> PathBuf {
    clock.path().join("clock")
}

fn set_clock(clock: &TempDir, seconds: i64) {
    // In one step: the server reads it at any moment.
    let new = clock.path().join("new");
    fs::write(&new, format!("{seconds:+}s\n")).and_then(|()| fs::rename(&new, clock_file(clock))).expect("a clock");
}

/// The library that gives a program a clock of its own (Debian's libfaketime).
fn clock_library() -> PathBuf {
    let multiarch = fs::read_dir("/usr/lib").expect("a system").flatten();
    let mut found = multiarch.map(|entry| entry.path().join("faketime/libfaketime.so.1"));
    found.find(|path| path.exists()).expect("libfaketime: install it (apt-get install libfaketime)")
}

fn spawn(dir: &TempDir, port: u16, arguments: &[String], clock: Option<&TempDir>) -> Child {
    let program = std::env::var_os(PROGRAM).unwrap_or_else(|| "redis-server".into());
    let mut command = Command::new(&program);
    // A settings file comes first; the options after it take precedence.
    let (settings, options) = arguments.split_at(arguments.iter().take_while(|word| !word.starts_with("--")).count());
    command.args(settings).args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.args(["--enable-debug-command", "local", "--logfile", "redis.log"]);
    command.arg("--dir").arg(dir.path()).args(options).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(clock) = clock {
        // The server's allocator asks for the time before the library is ready: here it gets the one of the C library.
        let preload = format!("{} libc.so.6", clock_library().display());
        command.env("LD_PRELOAD", preload).env("FAKETIME_TIMESTAMP_FILE", clock_file(clock));
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
    command.spawn().unwrap_or_else(|error| {
        panic!(
            "{} cannot be run ({error}): install it (apt-get install redis-server) or set {PROGRAM}",
            program.display()
        )
    })
}

/// Whether the child itself responds, not another process on its port.
fn wait_until_ready(child: &mut Child, port: u16) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return false;
        }
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port))
            && process_id(stream).is_some_and(|id| id == child.id())
        {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

fn process_id(mut stream: TcpStream) -> Option<u32> {
    use std::io::{Read, Write};
    stream.set_read_timeout(Some(Duration::from_millis(200))).ok()?;
    stream.write_all(format!("{HARNESS_LOGIN}\r\nINFO server\r\n").as_bytes()).ok()?;
    let mut reply = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&reply).contains("tcp_port:") {
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => reply.extend_from_slice(&buffer[..count]),
            _ => return None,
        }
    }
    let text = String::from_utf8_lossy(&reply);
    text.lines().find_map(|line| line.strip_prefix("process_id:"))?.trim().parse().ok()
}

fn log(dir: &TempDir) -> String {
    fs::read_to_string(dir.path().join("redis.log")).unwrap_or_default()
}
