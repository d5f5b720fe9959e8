//! Why a replica cannot start, or ended early. Never handles an error.

use std::{io, net::SocketAddr, path::PathBuf};

use thiserror::Error;

use super::connect;
use crate::config::Problems;

/// Why a replica cannot start.
#[derive(Debug, Error)]
pub enum BuildError {
    /// A key or certificate cannot be read, or is invalid.
    #[error(transparent)]
    Keys(Problems),
    /// The address of a listener cannot be bound.
    #[error("{key}: cannot listen on {address}: {source}{}", connect::remedy(.source))]
    Listen {
        /// The setting that holds the address.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The file for the recording of a feed cannot be opened.
    #[error("--record {}: {source}", path.display())]
    Record {
        /// The file given with `--record`.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// A replica ended because a vital task failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the vital task \"{task}\" panicked")]
pub struct VitalTaskFailed {
    /// The task's name, as in the metrics.
    pub task: &'static str,
}
