//! All integration tests, one binary: one file a capability, real parts, no sleeps.

mod conformance_registry;
mod support;
