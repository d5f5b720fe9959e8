//! Recording of what arrives from the exchange, unchanged, for `sim-exchange --replay`. Never delays what it records:
//! items that do not fit are counted and omitted.

use std::{
    fs::File,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncWriteExt, BufWriter},
    sync::mpsc,
    time::interval,
};

use crate::{
    clock,
    metrics::Metrics,
    tasks::{Stop, Tasks},
};

/// Maximum number of items that wait to be written.
const ITEMS_MAX: usize = 16_384;
/// Maximum number of bytes that wait to be written.
const BYTES_MAX: usize = 64 << 20;
/// Maximum time in the buffer.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// Opens the file of a recording and appends to it.
///
/// # Errors
/// If the file cannot be written.
pub fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

/// Accepts items. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Recording {
    lines: mpsc::Sender<String>,
    waiting: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl Recording {
    /// Writes to the file until the replica stops.
    pub(super) fn start(file: File, metrics: Arc<Metrics>, tasks: &Tasks) -> Self {
        let (lines, written) = mpsc::channel(ITEMS_MAX);
        let recording = Self { lines, waiting: Arc::default(), metrics };
        let writer = write(file, written, recording.waiting.clone(), recording.metrics.clone(), tasks.stop());
        tasks.spawn("feed recording", writer);
        recording
    }

    /// Records a frame.
    pub(super) fn frame(&self, text: &str) {
        self.item("ws", text);
    }

    /// Records the response to a REST request, by its path with the query.
    pub(super) fn answer(&self, path: &str, body: &str) {
        self.item(path, body);
    }

    fn item(&self, source: &str, body: &str) {
        let line = line(clock::unix_ms(), source, body);
        let length = line.len();
        let is_full = self.waiting.fetch_add(length, Ordering::Relaxed) + length > BYTES_MAX;
        if is_full || self.lines.try_send(line).is_err() {
            self.waiting.fetch_sub(length, Ordering::Relaxed);
            self.metrics.feed_recording_dropped_total.inc();
        }
    }
}

/// One line: the time of arrival, the source, the body. A line break in JSON is white space, so a space replaces it.
fn line(now_ms: u64, source: &str, body: &str) -> String {
    let mut line = format!("{now_ms}\t{source}\t{body}");
    if body.contains(['\n', '\r']) {
        line = line.replace(['\n', '\r'], " ");
    }
    line.push('\n');
    line
}

async fn write(
    file: File,
    mut lines: mpsc::Receiver<String>,
    waiting: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
    mut stop: Stop,
) {
    let mut file = BufWriter::new(tokio::fs::File::from_std(file));
    let (mut flushes, mut is_broken) = (interval(FLUSH_INTERVAL), false);
    loop {
        let result = tokio::select! {
            biased;
            Some(line) = lines.recv() => {
                waiting.fetch_sub(line.len(), Ordering::Relaxed);
                if is_broken {
                    metrics.feed_recording_dropped_total.inc();
                    continue;
                }
                file.write_all(line.as_bytes()).await
            }
            () = stop.wait() => break,
            _ = flushes.tick(), if !is_broken => file.flush().await,
        };
        if let Err(error) = result {
            tracing::error!(%error, "recording of the exchange stopped");
            metrics.feed_recording_dropped_total.inc();
            is_broken = true;
        }
    }
    if let Err(error) = file.flush().await {
        tracing::error!(%error, "the end of the recording is missing");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_three_parts_whatever_the_body() {
        assert_eq!(line(7, "ws", "{\n \"a\":\t1}"), "7\tws\t{  \"a\":\t1}\n");
    }
}
