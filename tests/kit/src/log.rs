//! The logs of all in-process replicas, kept and searched for forbidden content: every test that stops a replica also
//! checks that no test logged a token until then.

use std::{
    io,
    sync::{Mutex, Once, PoisonError},
};

use tracing_subscriber::{filter::LevelFilter, fmt};

use crate::replica::{API_KEY, SECRET};

/// The prefix of any token that a key of the tests signs: `{"` in base64.
const TOKEN: &[u8] = b"eyJ";

static START: Once = Once::new();
static CAPTURED: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static LEAKED: Mutex<Option<String>> = Mutex::new(None);

/// Captures everything that is logged from now on. May be called repeatedly.
pub fn capture() {
    START.call_once(|| {
        fmt().with_max_level(LevelFilter::TRACE).with_ansi(false).with_writer(|| SecretCheck).init();
    });
}

/// Log lines with a token, a key or a secret in them.
pub fn leaked() -> Option<String> {
    LEAKED.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Whether the text contains a token, a key or a secret.
pub fn holds_secret(text: &[u8]) -> bool {
    let secrets = [TOKEN, SECRET.as_bytes(), API_KEY.as_bytes()];
    secrets.iter().any(|secret| text.windows(secret.len()).any(|part| part == *secret))
}

/// Everything logged so far, by all tests of this process.
pub fn captured() -> String {
    String::from_utf8_lossy(&CAPTURED.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
}

struct SecretCheck;

impl io::Write for SecretCheck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if holds_secret(bytes) {
            let mut leaked = LEAKED.lock().unwrap_or_else(PoisonError::into_inner);
            leaked.get_or_insert_with(|| String::from_utf8_lossy(bytes).into_owned());
        }
        CAPTURED.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
