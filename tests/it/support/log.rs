//! What all replicas of the tests log, kept so that a test can look for what must not be there.

use std::{
    io,
    sync::{Once, PoisonError},
};

use tracing_subscriber::{EnvFilter, fmt};

static START: Once = Once::new();
static CAPTURED: std::sync::Mutex<Vec<u8>> = std::sync::Mutex::new(Vec::new());

/// Captures everything that is logged from now on. May be called often.
pub fn capture() {
    START.call_once(|| {
        let filter = EnvFilter::new("debug,hyper=info,h2=info");
        fmt().with_env_filter(filter).with_ansi(false).with_writer(|| Writer).init();
    });
}

/// Everything that was logged so far, by all tests of this process.
pub fn captured() -> String {
    String::from_utf8_lossy(&CAPTURED.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
}

struct Writer;

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        CAPTURED.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
