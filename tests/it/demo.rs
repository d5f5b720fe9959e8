//! The demo: its figures are true, as text or JSON, and it leaves nothing behind.

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::eventually;

/// A demo with its temporary files in a directory of the test.
fn demo(dir: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tickgate"));
    command.args(["demo", "kill-a-replica", "--json"]).args(arguments).env("TMPDIR", dir.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Processes that were started with the directory or work in it (Redis overwrites its arguments).
fn processes_of(dir: &Path) -> usize {
    let dir = dir.to_str().unwrap();
    let knows = |process: &std::fs::DirEntry| {
        let texts = ["cmdline", "environ"].map(|name| std::fs::read(process.path().join(name)).unwrap_or_default());
        let works_in_it = std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
        works_in_it || texts.iter().any(|text| String::from_utf8_lossy(text).contains(dir))
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter(knows).count()
}

#[tokio::test]
async fn a_replica_and_redis_are_killed_and_nothing_is_lost() {
    let dir = TempDir::new().unwrap();
    let output = output(demo(&dir, &["--clients", "8", "--rate", "80", "--pause", "1s"])).await;
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let acts: Vec<_> = lines.iter().filter_map(|line| line["act"].as_str()).collect();
    let expected = [
        "started",
        "subscribed",
        "publishing",
        "replica_killed",
        "clients_back",
        "redis_killed",
        "redis_started",
        "accepted_again",
        "quiet",
    ];
    assert_eq!(acts, expected);
    let tally = &lines.last().unwrap()["tally"];
    // The number depends on the machine; each of the four publishers completes its first one.
    assert!(tally["accepted"].as_u64().unwrap() >= 4, "{tally}");
    assert_eq!(tally["owed"], tally["accepted"].as_u64().unwrap() * 2, "two clients of each user");
    assert_eq!(tally["delivered"], tally["owed"]);
    for name in ["lost", "repeated", "misordered", "gaps"] {
        assert_eq!(tally[name], 0, "{tally}");
    }
    assert_eq!((processes_of(dir.path()), dir.path().read_dir().unwrap().count()), (0, 0), "something is left");
}

#[tokio::test]
async fn an_early_end_stops_all_child_processes() {
    let dir = TempDir::new().unwrap();
    let mut child: Child = demo(&dir, &["--pause", "60s"]).spawn().unwrap();
    // The demo itself, Redis and three replicas.
    eventually("the demo to run", async || (processes_of(dir.path()) == 5).then_some(())).await;
    let kill = format!("kill -TERM {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    let status = eventually("the demo to end", async || child.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(1));
    assert_eq!((processes_of(dir.path()), dir.path().read_dir().unwrap().count()), (0, 0), "something is left");
}

#[tokio::test]
async fn without_redis_it_reports_what_it_requires() {
    let dir = TempDir::new().unwrap();
    let output = output(demo(&dir, &["--redis-server", "/nowhere/redis-server"])).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("--redis-server"), "{said}");
}
