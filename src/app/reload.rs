//! Reloads settings and secrets at runtime: on a signal, and when a file changes. A reload takes effect completely or
//! not at all. Never closes a connection.
//!
//! Files are polled, not watched: polling takes one `stat` per second and file, follows symbolic links (Kubernetes
//! swaps one for all files of a Secret), and works on every file system. Kernel notifications work neither through
//! links nor over a network, and their number is limited.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval},
};

use super::{listeners::Acceptors, load, operator::ProcessContext};
use crate::{
    auth::Verifier,
    clock,
    config::{Config, ConfigSources, Effective, Problems},
    connection::replica::Replica,
    metrics::ReloadResult,
    redis_link,
    tasks::{Stop, blocking},
    telemetry::LogFilter,
    tls,
};

/// Time between two polls. A changed file is read when two polls in a row find it in the same state, so that a file is
/// complete, and a key matches its certificate.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What is read again, and the parts that use it.
#[derive(Debug)]
pub struct Reload {
    sources: ConfigSources,
    /// Before the files were first read.
    since: SystemTime,
    effective: Arc<Effective>,
    /// Notified by a signal.
    hang_up: Arc<Notify>,
    /// `None`: the process that contains the replica owns the log.
    filter: Option<LogFilter>,
}

/// Identifies a version of a file without reading it: device, inode and size, and the times of its content and its
/// inode, in seconds and nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileVersion {
    file: (u64, u64, u64),
    content: (i64, i64),
    entry: (i64, i64),
}

/// Maximum lag of the clock that stamps files.
const CLOCK_STEP: Duration = Duration::from_millis(20);

impl FileVersion {
    /// Whether the file may have changed since then.
    fn is_since(&self, time: SystemTime) -> bool {
        let since = (time - CLOCK_STEP).duration_since(UNIX_EPOCH).unwrap_or_default();
        self.entry >= (since.as_secs().try_into().unwrap_or(i64::MAX), since.subsec_nanos().into())
    }
}

impl Reload {
    /// For `sources`, which were first read at or after `since`, with the result `effective`.
    #[must_use]
    pub fn new(sources: ConfigSources, effective: Effective, since: SystemTime) -> Self {
        Self { sources, since, effective: Arc::new(effective), hang_up: Arc::default(), filter: None }
    }

    /// Reloads whenever this is notified.
    #[must_use]
    pub fn at(self, hang_up: Arc<Notify>) -> Self {
        Self { hang_up, ..self }
    }

    /// Applies `log.filter`.
    #[must_use]
    pub fn logging(self, filter: LogFilter) -> Self {
        Self { filter: Some(filter), ..self }
    }

    /// Lets the operator see the configuration in force, and change the log filter.
    pub(super) fn show(&self, outside: &ProcessContext) {
        outside.effective.store(Some(self.effective.clone()));
        outside.filter.store(self.filter.clone().map(Arc::new));
    }

    /// Polls files and waits for signals until the replica stops.
    pub(super) async fn run(
        mut self,
        replica: Arc<Replica>,
        (acceptors, outside): (Acceptors, Arc<ProcessContext>),
        mut stop: Stop,
    ) {
        let mut files = replica.config.files.clone();
        let mut before = look(&files).await;
        // A file written while the replica was built also counts as changed.
        let is_new = before.iter().flatten().any(|mark| mark.is_since(self.since));
        let mut loaded = if is_new { Vec::new() } else { before.clone() };
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let cause = tokio::select! {
                _ = looks.tick() => "file",
                () = self.hang_up.notified() => "signal",
                () = stop.wait() => return,
            };
            let now = look(&files).await;
            let settled = now == before && now != loaded;
            before.clone_from(&now);
            if cause == "file" && !settled {
                continue;
            }
            // Polled before it is read: the next poll finds anything written in between.
            loaded = now;
            if let Some(named) = self.again(&replica, &acceptors, cause).await
                && {
                    self.show(&outside);
                    named != files
                }
            {
                files = named;
                loaded = look(&files).await;
                before.clone_from(&loaded);
            }
        }
    }

    /// Reads everything once. Returns the files that are named now.
    async fn again(
        &mut self,
        replica: &Arc<Replica>,
        acceptors: &Acceptors,
        cause: &'static str,
    ) -> Option<Vec<PathBuf>> {
        let metrics = &replica.metrics;
        let (sources, before) = (self.sources.clone(), replica.config.clone());
        let read = blocking(move || read(&sources, &before)).await.unwrap_or_else(|| Err(panicked()));
        let LoadedSettings { config, effective, verifier, acceptors: read } = match read {
            Ok(read) => read,
            Err(problems) => {
                let problems = problems.to_string().replace("\n  ", "; ");
                tracing::error!(cause, problems, "reload failed: the previous settings stay in force");
                metrics.reloads_total.of(ReloadResult::Failed).inc();
                metrics.reload_failed.set(1);
                return None;
            }
        };
        replica.verifier.take_keys(&verifier);
        let mut needs_restart = effective.needing_restart(&self.effective);
        needs_restart.extend(acceptors.take(&read));
        tls::export_expiry(&config, metrics, clock::unix_s());
        if let Some(filter) = &self.filter
            && let Err(error) = filter.set(&config.log.filter)
        {
            tracing::error!(%error, "the log filter is unchanged");
        }
        metrics.reloads_total.of(ReloadResult::Ok).inc();
        metrics.reload_failed.set(0);
        metrics.reloaded_timestamp_seconds.set(clock::unix_s() as i64);
        self.effective = Arc::new(effective);
        if needs_restart.is_empty() {
            tracing::info!(cause, "reloaded");
        } else {
            let settings = needs_restart.join(", ");
            tracing::warn!(cause, settings, "reloaded, but these settings require a restart");
        }
        take_redis_over(replica, &config).await;
        Some(config.files)
    }
}

/// The new settings, validated as at the start.
struct LoadedSettings {
    config: Config,
    effective: Effective,
    verifier: Verifier,
    acceptors: Acceptors,
}

/// Reads everything, for a replica that was started with `before`.
fn read(sources: &ConfigSources, before: &Config) -> Result<LoadedSettings, Problems> {
    let (mut config, effective) = load(sources)?;
    if config.development != before.development {
        let mut problems = Problems::default();
        problems.report("server.mode", "development mode can be changed only by a restart");
        return Err(problems);
    }
    config.keep_generated(before);
    let (verifier, acceptors) = (Verifier::new(&config.auth)?, Acceptors::new(&config.server)?);
    Ok(LoadedSettings { config, effective, verifier, acceptors })
}

fn panicked() -> Problems {
    let mut problems = Problems::default();
    problems.report("configuration", "the gateway failed to read it, which is a bug");
    problems
}

/// New connections to Redis use the new settings; they are tried once, because existing connections may need them only
/// much later.
async fn take_redis_over(replica: &Replica, config: &Config) {
    let (Some(ours), Some(read)) = (&replica.config.redis, &config.redis) else { return };
    // A changed address in the configuration itself may be another Redis.
    if !ours.leads_where(read) {
        tracing::warn!(settings = ours.place_key(), "reloaded, but these settings require a restart");
        return;
    }
    if ours.take_access(read)
        && let Err(failure) = redis_link::probe(ours).await
    {
        tracing::warn!(%failure, "cannot connect to redis with the reloaded settings; existing connections stay");
    }
}

/// Polls all files on a blocking thread.
async fn look(files: &[PathBuf]) -> Vec<Option<FileVersion>> {
    let files = files.to_vec();
    blocking(move || files.iter().map(|path| mark(path)).collect()).await.unwrap_or_default()
}

/// `None`: the file does not exist now.
fn mark(path: &Path) -> Option<FileVersion> {
    let found = fs::metadata(path).ok()?;
    Some(FileVersion {
        file: (found.dev(), found.ino(), found.size()),
        content: (found.mtime(), found.mtime_nsec()),
        entry: (found.ctime(), found.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_swapped_link_is_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for version in ["..1", "..2"] {
            fs::create_dir(path(version)).unwrap();
            fs::write(path(version).join("keys"), "the same").unwrap();
        }
        symlink("..1", path("..data")).unwrap();
        symlink("..data/keys", path("keys")).unwrap();
        let first = mark(&path("keys"));
        assert!(first.is_some() && first == mark(&path("keys")));
        symlink("..2", path("..new")).unwrap();
        fs::rename(path("..new"), path("..data")).unwrap();
        assert_ne!(mark(&path("keys")), first);
        assert_eq!(mark(&path("gone")), None);
        let now = SystemTime::now();
        assert!(mark(&path("keys")).unwrap().is_since(now - Duration::from_secs(60)));
        assert!(!mark(&path("keys")).unwrap().is_since(now + Duration::from_secs(60)));
    }
}
