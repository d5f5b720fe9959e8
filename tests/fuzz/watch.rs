//! Ends the program if one input takes too long: a stuck thread cannot fail its own test.

use std::{
    process,
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;

/// The current input, and the number of inputs before it.
#[derive(Default)]
struct Now {
    count: u64,
    input: Option<Vec<u8>>,
}

pub(crate) struct HangWatch {
    now: Arc<Mutex<Now>>,
    /// Dropped with the watch, which ends its thread.
    _ends: SyncSender<()>,
}

impl HangWatch {
    /// If an input takes longer than `timeout`, calls `keep` with it and ends the program.
    pub(crate) fn begin(name: &'static str, timeout: Duration, keep: fn(&str, &[u8])) -> Self {
        let now = Arc::new(Mutex::new(Now::default()));
        let (ends, ended) = sync_channel(0);
        let watched = now.clone();
        thread::spawn(move || {
            // Polls are counted, not time: a suspended program does not poll either.
            let (mut seen, mut looks) = (0, 0);
            while ended.recv_timeout(timeout / 20) == Err(RecvTimeoutError::Timeout) {
                let now = watched.lock();
                looks = if now.count == seen { looks + 1 } else { 0 };
                seen = now.count;
                if let (Some(input), 20..) = (&now.input, looks) {
                    keep(name, input);
                    process::abort();
                }
            }
        });
        Self { now, _ends: ends }
    }

    /// Runs `act` on an input under the watch.
    pub(crate) fn over(&self, input: &[u8], act: impl FnOnce()) {
        {
            let mut now = self.now.lock();
            now.count += 1;
            now.input = Some(input.to_vec());
        }
        act();
        self.now.lock().input = None;
    }
}
