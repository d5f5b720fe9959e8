//! Logs: text for people or JSON for programs, to standard error. Never contains a token or a payload, and never waits
//! for its reader.

mod filter;
mod rotated;
mod tag;
mod writer;

use std::{
    backtrace::Backtrace,
    fs::File,
    io::{self, IsTerminal},
    os::fd::AsFd,
    time::Duration,
};

use prometheus::IntCounter;
use thiserror::Error;
use tracing::{Level, Subscriber};
use tracing_subscriber::{
    Layer,
    filter::Targets,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    registry,
    util::SubscriberInitExt,
};

use crate::config::{AUDIT_TARGET, Log};
pub use filter::LogFilter;
use rotated::Rotated;
use tag::Tag;
use writer::LogWriter;

/// How long the process waits at its end for lines to be written.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// Logging could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TelemetryError {
    /// The configuration validates filters, so this one comes from elsewhere.
    #[error("log.filter is invalid")]
    Filter,
    /// Logging of this process was already started.
    #[error("logging is already started")]
    Started,
    /// The log's thread cannot be started.
    #[error("no thread or file descriptor is available for the log")]
    System,
    /// The audit file cannot be opened.
    #[error("log.audit_file cannot be opened: {0}")]
    AuditFile(io::ErrorKind),
}

/// The log of the process. Dropping it writes what is queued, for at most one second.
pub struct Logging {
    writer: LogWriter,
    audit: Option<LogWriter>,
    filter: LogFilter,
}

impl Logging {
    /// Counts the lines that are dropped, including earlier ones.
    pub fn count_dropped(&self, counter: &IntCounter) {
        for writer in std::iter::once(&self.writer).chain(&self.audit) {
            writer.count_dropped(counter.clone());
        }
    }

    /// The log filter, which can be changed at runtime.
    #[must_use]
    pub fn filter(&self) -> LogFilter {
        self.filter.clone()
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        for writer in std::iter::once(&self.writer).chain(&self.audit) {
            writer.end(END_PATIENCE);
        }
    }
}

/// Starts logging for the whole process, each line with the `name` of the replica. Panics are logged as well.
///
/// # Errors
/// [`TelemetryError`].
pub fn start(log: &Log, name: &str) -> Result<Logging, TelemetryError> {
    let colours = io::stderr().is_terminal();
    // Not the standard library's handle: that is locked during a write, which may block for as long as the reader does.
    let target = io::stderr().as_fd().try_clone_to_owned().map_err(|_| TelemetryError::System)?;
    let writer = {
        let tag = Tag::new(name, log.json);
        LogWriter::start(File::from(target), writer::BYTES_MAX, tag).map_err(|_| TelemetryError::System)?
    };
    let audit = log.audit_file.clone().map(|path| {
        let file = Rotated::open(path).map_err(|error| TelemetryError::AuditFile(error.kind()))?;
        LogWriter::start(file, writer::BYTES_MAX, Tag::new(name, true)).map_err(|_| TelemetryError::System)
    });
    let audit = audit.transpose()?;
    let (subscriber, filter) = subscriber(log, colours, writer.clone(), audit.clone())?;
    subscriber.try_init().map_err(|_| TelemetryError::Started)?;
    std::panic::set_hook(Box::new(|info| {
        let (location, backtrace) = (info.location().map(ToString::to_string), Backtrace::capture());
        let text = info.payload_as_str().unwrap_or("no text");
        tracing::error!(location, %backtrace, "panicked: {text}");
    }));
    Ok(Logging { writer, audit, filter })
}

/// The subscriber for all lines of the process, and the handle that changes its filter.
type LogSubscriber = (Box<dyn Subscriber + Send + Sync>, LogFilter);

fn subscriber<W>(log: &Log, colours: bool, writer: W, audit: Option<LogWriter>) -> Result<LogSubscriber, TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (layer, filter) = filter::layer(&log.filter)?;
    let lines = fmt::layer().with_writer(writer).log_internal_errors(false);
    let lines = if log.json {
        lines.json().flatten_event(true).with_span_list(false).boxed()
    } else {
        lines.with_ansi(colours).boxed()
    };
    let audit = audit.map(|writer| {
        let lines = fmt::layer().with_writer(writer).log_internal_errors(false).json().flatten_event(true);
        lines.with_span_list(false).with_filter(Targets::new().with_target(AUDIT_TARGET, Level::TRACE))
    });
    Ok((Box::new(registry().with(lines.with_filter(layer)).with(audit)), filter))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(filter: &str, json: bool) -> Log {
        Log { filter: filter.into(), json, audit_file: None }
    }

    fn logged(filter: &str, json: bool) -> Result<String, TelemetryError> {
        let lines = Lines::default();
        let writer = lines.clone();
        let (subscriber, _) = subscriber(&log(filter, json), false, move || writer.clone(), None)?;
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(port = 8000, "listening");
            tracing::debug!("detail");
        });
        let bytes = lines.0.lock().unwrap().clone();
        Ok(String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn text_format_writes_lines_for_people() {
        let text = logged("info", false).unwrap();
        assert!(text.trim_end().ends_with("listening port=8000") && text.lines().count() == 1, "{text}");
    }

    #[test]
    fn json_format_writes_one_object_per_line() {
        let text = logged("debug", true).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0]["message"].as_str(), lines[0]["port"].as_u64()), (Some("listening"), Some(8000)));
    }

    #[test]
    fn the_filter_is_changed_while_the_log_is_in_use() {
        let lines = Lines::default();
        let writer = lines.clone();
        let (subscriber, filter) = subscriber(&log("info", false), false, move || writer.clone(), None).unwrap();
        let write = || tracing::debug!("detail");
        tracing::subscriber::with_default(subscriber, || {
            write();
            filter.set("debug").unwrap();
            write();
            assert_eq!(filter.set("tickgate=loud"), Err(TelemetryError::Filter));
            write();
            filter.set("info").unwrap();
            write();
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn an_invalid_filter_is_refused() {
        assert_eq!(logged("tickgate=loud", false), Err(TelemetryError::Filter));
    }
}
