//! Ends the program when one input takes too long: a thread that is stuck can't fail its own test.

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

/// What is being run, and how many were before it.
#[derive(Default)]
struct Now {
    count: u64,
    input: Option<Vec<u8>>,
}

pub(crate) struct Watch {
    now: Arc<Mutex<Now>>,
    /// Dropped with the watch, which ends its thread.
    _ends: SyncSender<()>,
}

impl Watch {
    /// Calls `keep` with the input that takes longer than `timeout`, and ends the program.
    pub(crate) fn begin(name: &'static str, timeout: Duration, keep: fn(&str, &[u8])) -> Self {
        let now = Arc::new(Mutex::new(Now::default()));
        let (ends, ended) = sync_channel(0);
        let watched = now.clone();
        thread::spawn(move || {
            // Looks are counted, not time: a program that is stopped for a while does not look either.
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

    /// Runs `act` on an input, watched.
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
