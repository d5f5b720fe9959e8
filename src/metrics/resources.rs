//! Kernel statistics of the process: processor time, memory, descriptors, threads. Read at each scrape; without
//! `/proc`, nothing is exported.

use std::fs;

use prometheus::{
    Counter, IntGauge, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// `USER_HZ` of Linux: clock ticks per second in the kernel's interface to processes, equal on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// One sample of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct ProcessUsage {
    cpu_seconds: f64,
    /// Seconds from the system's start to the start of the process.
    started_after: f64,
    virtual_bytes: i64,
    resident_bytes: i64,
    threads: i64,
}

impl ProcessUsage {
    /// From `/proc/<pid>/stat` and `/proc/<pid>/status`.
    fn parse(stat: &str, status: &str) -> Option<Self> {
        // The name of the program, in parentheses, may contain any character.
        let (_, fields) = stat.rsplit_once(')')?;
        let field = |number: usize| fields.split_whitespace().nth(number - 3)?.parse::<f64>().ok();
        let line = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            value.split_whitespace().next()?.parse::<i64>().ok()
        };
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / TICKS_PER_SECOND,
            started_after: field(22)? / TICKS_PER_SECOND,
            virtual_bytes: line("VmSize")? * 1024,
            resident_bytes: line("VmRSS")? * 1024,
            threads: line("Threads")?,
        })
    }

    fn now() -> Option<Self> {
        let read = |path| fs::read_to_string(path).ok();
        Self::parse(&read("/proc/self/stat")?, &read("/proc/self/status")?)
    }
}

/// When the system started, in seconds since 1970.
fn system_start() -> Option<f64> {
    fs::read_to_string("/proc/stat").ok()?.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

fn open_descriptors() -> Option<i64> {
    // Subtracts the descriptor of the directory itself, which is open during the read.
    fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as i64 - 1)
}

/// The soft limit in `/proc/<pid>/limits`; `None` if unlimited.
fn descriptors_max(limits: &str) -> Option<i64> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok())
}

/// Exports the resource usage of this process.
pub(super) struct Resources {
    descriptors: Vec<Desc>,
    cpu: Counter,
    start_time: IntGauge,
    virtual_memory: IntGauge,
    resident_memory: IntGauge,
    threads: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
}

impl Resources {
    pub(super) fn new() -> prometheus::Result<Self> {
        let gauge = |name, help| IntGauge::with_opts(Opts::new(name, help));
        let mut resources = Self {
            descriptors: Vec::new(),
            cpu: Counter::with_opts(Opts::new("process_cpu_seconds_total", "Processor time, user and system mode."))?,
            start_time: gauge("process_start_time_seconds", "When the process started, in seconds since 1970.")?,
            virtual_memory: gauge("process_virtual_memory_bytes", "Virtual memory.")?,
            resident_memory: gauge("process_resident_memory_bytes", "Resident memory.")?,
            threads: gauge("process_threads", "Threads of the process.")?,
            open_fds: gauge("process_open_fds", "Open file descriptors.")?,
            max_fds: gauge("process_max_fds", "Maximum number of open file descriptors.")?,
        };
        let started_after = ProcessUsage::now().map(|usage| usage.started_after);
        if let (Some(system), Some(after)) = (system_start(), started_after) {
            resources.start_time.set((system + after) as i64);
        }
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        resources.max_fds.set(descriptors_max(&limits).unwrap_or(i64::MAX));
        let gauges = resources.gauges().into_iter().flat_map(Collector::desc);
        resources.descriptors = resources.cpu.desc().into_iter().chain(gauges).cloned().collect();
        Ok(resources)
    }

    fn gauges(&self) -> [&IntGauge; 6] {
        [&self.start_time, &self.virtual_memory, &self.resident_memory, &self.threads, &self.open_fds, &self.max_fds]
    }
}

impl Collector for Resources {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptors.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (Some(usage), Some(open_fds)) = (ProcessUsage::now(), open_descriptors()) else { return Vec::new() };
        // A concurrent scrape may already have exported a newer, greater value.
        self.cpu.inc_by((usage.cpu_seconds - self.cpu.get()).max(0.0));
        self.virtual_memory.set(usage.virtual_bytes);
        self.resident_memory.set(usage.resident_bytes);
        self.threads.set(usage.threads);
        self.open_fds.set(open_fds);
        let gauges = self.gauges().into_iter().flat_map(Collector::collect);
        self.cpu.collect().into_iter().chain(gauges).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_kernel_files_are_parsed() {
        let stat = "7 (a) name) S 1 7 7 0 -1 4194560 9 0 0 0 250 150 0 0 20 0 3 0 4200 1000 50 18446744073709551615";
        let status = "Name:\ta) name\nVmSize:\t    2048 kB\nVmRSS:\t      64 kB\nThreads:\t3\n";
        let usage = ProcessUsage::parse(stat, status).unwrap();
        let (cpu_seconds, started_after) = (4.0, 42.0);
        let expected =
            ProcessUsage { cpu_seconds, started_after, virtual_bytes: 2 << 20, resident_bytes: 64 << 10, threads: 3 };
        assert_eq!(usage, expected);
        assert_eq!(ProcessUsage::parse("", status), None);
        let limits =
            "Limit   Soft Limit  Hard Limit  Units\nMax open files            1024                 4096        files\n";
        assert_eq!(descriptors_max(limits), Some(1024));
        assert_eq!(descriptors_max("Max open files            unlimited            unlimited   files\n"), None);
    }

    #[test]
    fn this_process_is_described() {
        let resources = Resources::new().unwrap();
        let families = resources.collect();
        let names: Vec<_> = families.iter().map(MetricFamily::name).collect();
        assert_eq!(names.len(), 7, "{names:?}");
        assert!(resources.resident_memory.get() > 1 << 20 && resources.threads.get() >= 1);
        assert!(resources.open_fds.get() >= 3 && resources.max_fds.get() >= resources.open_fds.get());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
        let age = now - resources.start_time.get();
        assert!((-1..3600).contains(&age), "started {age} s ago");
    }
}
