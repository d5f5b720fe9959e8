//! The queue of log lines for standard error: bounded in bytes, written by one thread. Logging never waits for the
//! log's reader and never fails: lines that do not fit are dropped and counted.

use std::{
    io::{self, ErrorKind, Write},
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use prometheus::IntCounter;
use tracing_subscriber::fmt::MakeWriter;

use super::tag::Tag;

/// Maximum size of queued lines, in bytes. The thread holds the same amount again while it writes.
pub(super) const BYTES_MAX: usize = 1 << 20;
/// Delay before a retry, for a non-blocking target that accepts no data.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// Accepts lines and returns immediately. Cheap to clone.
#[derive(Clone)]
pub(super) struct LogWriter(Arc<LogQueue>);

struct LogQueue {
    bytes_max: usize,
    tag: Tag,
    state: Mutex<LogQueueState>,
    /// Lines are queued, or the end has come.
    filled: Condvar,
    /// Everything is written.
    emptied: Condvar,
    dropped: Dropped,
}

#[derive(Default)]
struct LogQueueState {
    /// Complete lines.
    waiting: Vec<u8>,
    /// The thread is writing lines.
    writing: bool,
    ended: bool,
}

/// Lines that were dropped. The metric is created later than the log.
#[derive(Default)]
struct Dropped {
    before: Mutex<u64>,
    counter: OnceLock<IntCounter>,
}

impl LogWriter {
    /// Starts the thread that writes to `target`, which may block or fail, each line with its `tag`.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub(super) fn start(target: impl Write + Send + 'static, bytes_max: usize, tag: Tag) -> io::Result<Self> {
        let queue = Arc::new(LogQueue {
            bytes_max,
            tag,
            state: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            dropped: Dropped::default(),
        });
        let writing = Arc::clone(&queue);
        thread::Builder::new().name("log".into()).spawn(move || writing.write_all(target))?;
        Ok(Self(queue))
    }

    /// Counts dropped lines here from now on, including earlier ones.
    pub(super) fn count_dropped(&self, counter: IntCounter) {
        self.0.dropped.count_in(counter);
    }

    /// Waits until everything is written, for at most this time. Later lines are dropped.
    pub(super) fn end(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = self.0.state.lock();
        state.ended = true;
        self.0.filled.notify_one();
        while (state.writing || !state.waiting.is_empty()) && Instant::now() < deadline {
            let _ = self.0.emptied.wait_until(&mut state, deadline);
        }
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = LogLine<'a>;

    fn make_writer(&'a self) -> LogLine<'a> {
        LogLine(&self.0)
    }
}

/// One line. The formatter passes it in one piece.
pub(super) struct LogLine<'a>(&'a LogQueue);

impl Write for LogLine<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LogQueue {
    fn push(&self, line: &[u8]) {
        let mut state = self.state.lock();
        if state.ended || state.waiting.len() + line.len() + self.tag.bytes() > self.bytes_max {
            drop(state);
            self.dropped.add(1);
            return;
        }
        self.tag.append(line, &mut state.waiting);
        drop(state);
        self.filled.notify_one();
    }

    /// The thread's work, until the end.
    fn write_all(&self, mut target: impl Write) {
        let mut lines = Vec::new();
        let mut reported = 0;
        while self.next(&mut lines) {
            match write(&mut target, &lines) {
                Ok(()) => reported = self.dropped.report(reported),
                Err(written) => self.dropped.add(count(&lines[written..])),
            }
            lines.clear();
        }
    }

    /// Waits for lines and takes all of them; false at the end.
    fn next(&self, lines: &mut Vec<u8>) -> bool {
        let mut state = self.state.lock();
        state.writing = false;
        while state.waiting.is_empty() {
            self.emptied.notify_all();
            if state.ended {
                return false;
            }
            self.filled.wait(&mut state);
        }
        std::mem::swap(lines, &mut state.waiting);
        state.writing = true;
        true
    }
}

/// Writes everything, or returns how much was written before the target failed.
fn write(target: &mut impl Write, lines: &[u8]) -> Result<(), usize> {
    let mut written = 0;
    while written < lines.len() {
        match target.write(&lines[written..]) {
            Ok(0) => return Err(written),
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => pause(),
            Err(_) => return Err(written),
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the log's own thread, which has no other work")]
fn pause() {
    thread::sleep(RETRY_AFTER);
}

fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

impl Dropped {
    fn add(&self, lines: u64) {
        let mut before = self.before.lock();
        *before += lines;
        if let Some(counter) = self.counter.get() {
            counter.inc_by(lines);
        }
    }

    fn count_in(&self, counter: IntCounter) {
        let before = self.before.lock();
        counter.inc_by(*before);
        let _ = self.counter.set(counter);
    }

    /// Writes a line if more lines were dropped than the `reported` ones; returns the new total.
    fn report(&self, reported: u64) -> u64 {
        let dropped = *self.before.lock();
        if dropped > reported {
            tracing::warn!(
                lines = dropped - reported,
                "log lines were dropped: the reader of the log was absent or too slow"
            );
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        os::unix::net::UnixStream,
        sync::mpsc::{Receiver, SyncSender, sync_channel},
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    /// A tag that does not change lines.
    fn untagged() -> Tag {
        Tag::Json(String::new())
    }

    fn counter() -> IntCounter {
        IntCounter::new("dropped", "dropped").unwrap()
    }

    fn log(writer: &LogWriter, line: &[u8]) {
        writer.make_writer().write_all(line).unwrap();
    }

    /// Fails each write, and reports it.
    struct Failing(SyncSender<()>);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.0.send(()).unwrap();
            Err(ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_lines_are_written_before_the_end() {
        let (mut reader, target) = UnixStream::pair().unwrap();
        let writer = LogWriter::start(target, 1 << 16, untagged()).unwrap();
        (0..100).for_each(|number| log(&writer, format!("line {number}\n").as_bytes()));
        writer.end(PATIENCE);
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!((text.lines().count(), text.lines().last()), (100, Some("line 99")));
    }

    #[test]
    fn a_stalled_reader_blocks_nothing_and_lines_beyond_the_bound_are_counted() {
        let (mut reader, target) = UnixStream::pair().unwrap();
        let writer = LogWriter::start(target, 1_000, untagged()).unwrap();
        let dropped = counter();
        let line = [&[b'x'; 99][..], b"\n"].concat();
        // More than socket, thread and queue hold together, so that the bound is reached.
        (0..20_000).for_each(|_| log(&writer, &line));
        writer.count_dropped(dropped.clone());
        assert!(dropped.get() > 0, "counted before the metric existed");
        assert!(writer.0.state.lock().waiting.len() <= 1_000);
        let before = dropped.get();
        (0..11).for_each(|_| log(&writer, &line));
        assert!(dropped.get() > before);
        // The reader continues: queued lines arrive complete.
        let reading = thread::spawn(move || {
            let mut text = Vec::new();
            reader.read_to_end(&mut text).unwrap();
            text
        });
        writer.end(PATIENCE);
        drop(writer);
        let text = reading.join().unwrap();
        assert!(!text.is_empty() && text.chunks(100).all(|chunk| chunk == line));
    }

    #[test]
    fn a_failing_target_loses_only_its_own_lines() {
        let (sender, failed): (_, Receiver<()>) = sync_channel(100);
        let writer = LogWriter::start(Failing(sender), 1_000, untagged()).unwrap();
        let dropped = counter();
        writer.count_dropped(dropped.clone());
        log(&writer, b"one\n");
        failed.recv_timeout(PATIENCE).unwrap();
        log(&writer, b"two\n");
        failed.recv_timeout(PATIENCE).unwrap();
        writer.end(PATIENCE);
        assert_eq!(dropped.get(), 2);
        log(&writer, b"after the end\n");
        assert_eq!(dropped.get(), 3);
    }
}
