//! The client that is tested: a process that receives commands and reports events as lines of JSON. It is killed when its
//! owner is dropped.

use std::{io, process::Stdio, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::mpsc::Sender,
    task::JoinSet,
    time::timeout,
};

use crate::{
    seen::{Observation, What},
    trace::{ScenarioFailure, StepResult},
};

/// Time limit for exiting after `stop`.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for accepting a command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// A running client.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    input: Option<ChildStdin>,
}

impl Program {
    /// Starts the command and passes on what it writes.
    pub(crate) fn start(
        command: &str,
        environment: &[(&str, String)],
        tasks: &mut JoinSet<()>,
        seen: &Sender<Observation>,
    ) -> io::Result<Self> {
        // With `exec` the process that is killed is the client and not a shell.
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("exec {command}"));
        shell.envs(environment.iter().map(|(name, value)| (name, value)));
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = shell.spawn()?;
        if let Some(output) = child.stdout.take() {
            tasks.spawn(lines(output, seen.clone(), What::of_line));
        }
        if let Some(errors) = child.stderr.take() {
            tasks.spawn(lines(errors, seen.clone(), What::Diagnostic));
        }
        let input = child.stdin.take();
        Ok(Self { child, input })
    }

    /// Sends it a command.
    pub(crate) async fn command(&mut self, command: &Value) -> StepResult {
        let Some(input) = &mut self.input else {
            return Err(ScenarioFailure::new("a running client", "its input is closed"));
        };
        let written = timeout(COMMAND_TIMEOUT, input.write_all(format!("{command}\n").as_bytes())).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(ScenarioFailure::new("a client that reads its standard input", error.to_string())),
            Err(_) => Err(ScenarioFailure::new(
                "a client that reads its standard input",
                format!("{COMMAND_TIMEOUT:?} passed"),
            )),
        }
    }

    /// Sends it `stop`, unless it has exited already: then [`Self::ended`] judges how.
    pub(crate) async fn stop(&mut self) -> StepResult {
        match self.child.try_wait() {
            Ok(Some(_)) => Ok(()),
            _ => match self.command(&json!({ "command": "stop" })).await {
                // It exits at this moment.
                Err(_) if timeout(END_TIMEOUT, self.child.wait()).await.is_ok() => Ok(()),
                written => written,
            },
        }
    }

    /// Closes its input and waits until it exits.
    pub(crate) async fn ended(&mut self) -> StepResult {
        self.input = None;
        let expected = format!("the command ends with status 0 within {END_TIMEOUT:?} after `stop`");
        match timeout(END_TIMEOUT, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(ScenarioFailure::new(expected, status.to_string())),
            Ok(Err(error)) => Err(ScenarioFailure::new(expected, error.to_string())),
            Err(_) => Err(ScenarioFailure::new(expected, "it still runs")),
        }
    }
}

async fn lines(from: impl AsyncRead + Unpin, seen: Sender<Observation>, what: impl Fn(String) -> What) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if seen.send(Observation::now(what(line))).await.is_err() {
            return;
        }
    }
}
