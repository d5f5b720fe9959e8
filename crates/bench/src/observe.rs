//! Resource usage of the measured processes: CPU time, memory, system calls, and their own counters. Read-only.

use std::{
    fs, io,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::line::{self, TlsTrust};

/// Processes whose usage is summed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Processes(pub(crate) Vec<u32>);

impl Processes {
    /// CPU time of the currently running threads, in nanoseconds. The time of ended threads is not included, so a
    /// difference of two readings is correct only while the set of threads stays the same.
    pub(crate) fn cpu_ns(&self) -> u64 {
        self.0.iter().map(|pid| cpu_ns(*pid).unwrap_or(0)).sum()
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.0.iter().map(|pid| resident_bytes(*pid).unwrap_or(0)).sum()
    }
}

/// `schedstat` has nanoseconds, `stat` only hundredths of a second.
fn cpu_ns(pid: u32) -> io::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        sum += text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

fn resident_bytes(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.unwrap_or(0) * 1024)
}

/// A running count of the processes' system calls. Uses `perf`, which costs the calls almost nothing; `strace` would
/// change the workload.
pub(crate) struct SystemCalls(Child);

impl SystemCalls {
    /// How long the calls are counted.
    const WINDOW: Duration = Duration::from_secs(1);
    /// Timeout from the start to the end of the window.
    pub(crate) const TAKES: Duration = Duration::from_millis(1_300);

    /// Starts to count; `None` if `perf` is missing.
    pub(crate) fn count(processes: &Processes) -> Option<Self> {
        let pids: Vec<String> = processes.0.iter().map(ToString::to_string).collect();
        let mut perf = Command::new("perf");
        perf.args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p"]).arg(pids.join(","));
        perf.args(["--", "sleep"]).arg(Self::WINDOW.as_secs().to_string());
        perf.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        perf.spawn().ok().map(Self)
    }

    /// Calls per second; `None` if `perf` is not permitted to trace.
    pub(crate) fn per_second(self) -> Option<f64> {
        let told = self.0.wait_with_output().ok()?;
        let line = std::str::from_utf8(&told.stderr).ok()?.lines().find(|line| line.contains("sys_enter"))?;
        let calls: f64 = line.split(',').next()?.parse().ok()?;
        Some(calls / Self::WINDOW.as_secs_f64())
    }
}

/// The gateway's own counters, if it has any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters(String);

impl Counters {
    /// Reads `http://<address>/metrics`; empty if it cannot be read.
    pub(crate) fn read(address: Option<&str>) -> Self {
        Self(address.and_then(|address| line::get(address.parse().ok()?, "/metrics", None).ok()).unwrap_or_default())
    }

    /// The sum of a metric over all label values; `None` if absent.
    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        let values = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            if !rest.starts_with([' ', '{']) {
                return None;
            }
            rest.rsplit(' ').next()?.parse::<f64>().ok()
        });
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }
}

/// Whether the gateway is ready for clients: it has reached Redis.
pub(crate) fn is_ready(address: &str, trust: Option<&TlsTrust>) -> bool {
    let answer = address.parse().ok().and_then(|address| line::get(address, "/readyz", trust).ok());
    answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_cpu_and_memory() {
        let this = Processes(vec![std::process::id()]);
        let before = this.cpu_ns();
        let mut sum = 0_u64;
        // The other tests' threads end while this one runs, and their time is removed with them.
        while this.cpu_ns() < 1_000_000 || this.cpu_ns() == before {
            sum = sum.wrapping_add((0..10_000).map(std::hint::black_box).sum());
        }
        assert!(this.resident_bytes() > 100_000, "{sum}");
    }

    #[test]
    fn a_metric_is_summed_over_its_labels_and_not_confused_with_longer_names() {
        let counters =
            Counters("# HELP a_total x\na_total{x=\"1\"} 2\na_total{x=\"2\"} 3\na_total_more 50\nb 1.5\n".into());
        assert_eq!(counters.get("a_total"), Some(5.0));
        assert_eq!(counters.get("b"), Some(1.5));
        assert_eq!(counters.get("c"), None);
    }
}
