//! JSON as text: checked in one pass and written without a tree. Never changes a value it passes on.
//!
//! - `scan` checks a text and hands out the fields of its top-level object as they were written.
//! - `write` appends objects to a buffer.

mod scan;
mod write;

pub use scan::{JsonError, kind_of, scan_object};
pub(crate) use write::Object;
pub use write::push_value;
