//! Processes that a verb starts for itself: with their output in a file, pinned to a core where asked, gone when the verb
//! ends. Never left behind.

use std::{
    fs::File,
    io,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use uuid::Uuid;

/// A folder for the files of what was started; it goes when dropped, so after the processes that write into it.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes a folder of that verb among the temporary files.
    pub(super) fn new(verb: &str) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("tickgate-{verb}-{}", Uuid::new_v4().simple()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of it is the system's to clean.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process to start.
#[derive(Debug)]
pub(super) struct Spec<'a> {
    pub(super) name: &'a str,
    pub(super) program: &'a Path,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) cpu: Option<usize>,
    /// Where its output goes, and its files.
    pub(super) dir: &'a Path,
    /// It is up when this address accepts connections.
    pub(super) address: String,
}

/// A running process; killed when dropped.
#[derive(Debug)]
pub(super) struct Started(Child);

impl Started {
    /// Starts the process and waits until it accepts connections.
    pub(super) fn start(spec: &Spec<'_>) -> io::Result<Self> {
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
        let child =
            command.spawn().map_err(|error| io::Error::other(format!("{} can't be started: {error}", spec.name)))?;
        let mut started = Self(child);
        let end = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(&spec.address).is_err() {
            let ended = started.0.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                let log = std::fs::read_to_string(&log_path).unwrap_or_default();
                return Err(io::Error::other(format!("{} did not come up: {log}", spec.name)));
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Ok(started)
    }

    /// Its process id; `taskset` became the program itself.
    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port of the loopback interface that is free now.
pub(super) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Keeps this process on one core.
pub(super) fn pin_self(cpu: usize) -> io::Result<()> {
    let pid = std::process::id().to_string();
    let status =
        Command::new("taskset").args(["-a", "-c", "-p", &cpu.to_string(), &pid]).stdout(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(io::Error::other(format!("taskset ended with {status}"))),
        Err(error) => Err(io::Error::other(format!("taskset can't be started: {error}"))),
    }
}
