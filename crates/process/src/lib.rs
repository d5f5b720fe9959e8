//! Processes that a tool starts: logged to a file, optionally pinned to a core, awaited until they accept connections.
//! Never left running: each is killed when its owner is dropped.
#![warn(missing_docs)]

use std::{
    fs::File,
    io,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long a process may take to accept connections.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A process to start.
#[derive(Debug)]
pub struct ProcessSpec<'a> {
    /// The name of its log file, and of the process in error messages.
    pub name: &'a str,
    /// A path, or a name to look up in `PATH`.
    pub program: &'a Path,
    /// The arguments of the program.
    pub arguments: Vec<String>,
    /// Added to the environment of this process.
    pub environment: Vec<(String, String)>,
    /// The only core that it runs on. Requires `taskset`.
    pub cpu: Option<usize>,
    /// The directory of its log `<name>.log`: standard output and standard error.
    pub dir: &'a Path,
    /// `host:port` that accepts connections when the process is up.
    pub address: String,
}

/// A running process. Killed on drop.
#[derive(Debug)]
pub struct ChildProcess(Child);

impl ChildProcess {
    /// Starts the process and waits until it accepts connections.
    ///
    /// # Errors
    /// It could not be started, ended early, or did not accept connections within 10 seconds; the last two quote its
    /// log.
    pub fn start(spec: &ProcessSpec<'_>) -> io::Result<Self> {
        let mut command = match spec.cpu {
            Some(cpu) => {
                let mut command = Command::new("taskset");
                command.arg("-c").arg(cpu.to_string()).arg(spec.program);
                command
            }
            None => Command::new(spec.program),
        };
        let log_path = spec.dir.join(format!("{}.log", spec.name));
        let log = File::create(&log_path)?;
        command.args(&spec.arguments).envs(spec.environment.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let failed =
            |error| io::Error::other(format!("cannot start {} ({}): {error}", spec.name, spec.program.display()));
        let mut started = Self(command.spawn().map_err(failed)?);
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(&spec.address).is_err() {
            let ended = started.0.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(&log_path).unwrap_or_default();
                return Err(io::Error::other(format!("{} did not start: {log}", spec.name)));
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Ok(started)
    }

    /// The process id, even of a pinned process: `taskset` replaces itself with the program.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // It may already have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A loopback TCP port that is free now. Another process may take it before it is used.
///
/// # Errors
/// No port is free.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Restricts all threads of the current process to one core.
///
/// # Errors
/// `taskset` is missing, or the core does not exist.
pub fn pin_self(cpu: usize) -> io::Result<()> {
    let pid = std::process::id().to_string();
    let status =
        Command::new("taskset").args(["-a", "-c", "-p", &cpu.to_string(), &pid]).stdout(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(io::Error::other(format!("taskset ended with {status}"))),
        Err(error) => Err(io::Error::other(format!("cannot start taskset: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec<'a>(program: &'a Path, arguments: &[&str], dir: &'a Path) -> ProcessSpec<'a> {
        ProcessSpec {
            name: "tried",
            program,
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            environment: vec![("GREETING".into(), "hello from the environment".into())],
            cpu: None,
            dir,
            address: format!("127.0.0.1:{}", free_port().unwrap()),
        }
    }

    #[test]
    fn a_process_that_ends_early_is_reported_with_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let error =
            ChildProcess::start(&spec(Path::new("sh"), &["-c", "echo \"$GREETING\" >&2"], dir.path())).unwrap_err();
        assert_eq!(error.to_string(), "tried did not start: hello from the environment\n");
    }

    #[test]
    fn a_missing_program_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = ChildProcess::start(&spec(Path::new("/nonexistent/program"), &[], dir.path())).unwrap_err();
        assert!(error.to_string().starts_with("cannot start tried (/nonexistent/program): "), "{error}");
    }

    #[test]
    fn a_process_does_not_outlive_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let mut spec = spec(Path::new("sleep"), &["1000"], dir.path());
        // A listener that already accepts connections: only the process itself matters here.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        spec.address = listener.local_addr().unwrap().to_string();
        let started = ChildProcess::start(&spec).unwrap();
        let proc = format!("/proc/{}", started.pid());
        assert!(Path::new(&proc).exists());
        drop(started);
        assert!(!Path::new(&proc).exists());
    }
}
