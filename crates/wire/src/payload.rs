//! Validation of publications: exactly one JSON object that all parsers read alike. Never changes a byte.

use thiserror::Error;

use super::json::{JsonError, scan_object};

/// The key that the gateway adds to every push; reserved for it.
pub const META_KEY: &str = "_meta";

/// Why a payload is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PayloadError {
    /// Not UTF-8.
    #[error("the payload is not valid UTF-8 at byte {at}")]
    Utf8 {
        /// The offset of the first invalid byte.
        at: usize,
    },
    /// Not a single object, or one that parsers read differently.
    #[error("the payload is refused: {0}")]
    Json(#[from] JsonError),
    /// The publisher used the gateway's own key.
    #[error("the payload is refused: the key `_meta` is reserved for the gateway")]
    ReservedKey,
}

/// Deepest nesting of a publication that any replica may be set to accept: each shows what another one accepted.
pub const PAYLOAD_DEPTH_MAX: usize = 127;
/// Bytes of the largest publication that any replica may be set to accept: no message of the server exceeds 1 MiB.
pub const PAYLOAD_BYTES_MAX: usize = (1 << 20) - 1024;

/// Validates a publication: one JSON object and nothing after it, nested at most `depth_max` levels, without duplicate
/// keys in any object, without numbers beyond a double, without `_meta` at the top. One pass, no tree.
///
/// # Errors
/// [`PayloadError`] for the first error.
pub fn check_payload(payload: &[u8], depth_max: usize) -> Result<(), PayloadError> {
    let text = simdutf8::basic::from_utf8(payload).map_err(|_| utf8_error(payload))?;
    let mut reserved = false;
    scan_object(text, depth_max, |key, _| reserved |= key == META_KEY)?;
    if reserved { Err(PayloadError::ReservedKey) } else { Ok(()) }
}

#[cold]
fn utf8_error(payload: &[u8]) -> PayloadError {
    PayloadError::Utf8 { at: std::str::from_utf8(payload).map_or_else(|error| error.valid_up_to(), str::len) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_ordinary_publication_is_valid() {
        let order = br#"{"type":"order_update","order_id":"123456","status":"filled","price":50000.00,"_metadata":1,"x":{"_meta":1}}"#;
        assert_eq!(check_payload(order, 32), Ok(()));
        assert_eq!(check_payload(b" {} \r\n", 32), Ok(()));
    }

    #[test]
    fn the_reserved_key_is_found_however_it_is_escaped() {
        for payload in [r#"{"_meta":{}}"#, r#"{"a":1,"_meta":null}"#, r#"{"\u005fmeta":1}"#, r#"{"_\u006deta":1}"#] {
            assert_eq!(check_payload(payload.as_bytes(), 32), Err(PayloadError::ReservedKey), "{payload}");
        }
    }

    #[test]
    fn ambiguous_json_is_refused() {
        assert_eq!(check_payload(b"{\"a\":\"\xff\"}", 32), Err(PayloadError::Utf8 { at: 6 }));
        for payload in
            ["", "1", "[]", "{} x", r#"{"a":1,"a":2}"#, r#"{"a":1e400}"#, r#"{"a":NaN}"#, r#"{"a":"\ud800"}"#]
        {
            assert!(matches!(check_payload(payload.as_bytes(), 32), Err(PayloadError::Json(_))), "{payload}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_get_a_result(payload in prop::collection::vec(any::<u8>(), 0..64)) {
            let read = serde_json::from_slice::<serde_json::Map<_, _>>(&payload);
            prop_assert!(check_payload(&payload, 32).is_err() || read.is_ok());
        }
    }
}
