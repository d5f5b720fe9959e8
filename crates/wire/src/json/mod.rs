//! JSON as text: validated in one pass and written without a tree. Never changes a value that it passes on.
//!
//! - `scan` validates a text and returns the fields of its top-level object as written.
//! - `write` appends objects to a buffer.

mod scan;
mod write;

pub use scan::{JsonError, kind_of, scan_object};
pub(crate) use write::Object;
pub use write::push_value;
