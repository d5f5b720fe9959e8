//! File descriptors: how many the process may open, and how many are reserved. Never opens or closes one.

use std::{io, os::fd::RawFd};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Always in use: listeners, the runtime, standard streams.
const BASE: usize = 32;
/// Connections of both links to Redis and of durable publishing.
const REDIS_LINKS: usize = 8;
/// Plain HTTP connections that can be served from the reserve at the same time, on the public and on the operations
/// listener.
pub const PUBLIC_SPARES: usize = 32;
/// See [`PUBLIC_SPARES`].
pub const OPERATIONS_SPARES: usize = 16;

/// Raises the soft limit of this process to the hard one, which the administrator allows.
///
/// # Errors
/// If the system refuses; the limit is unchanged.
pub fn raise_limit() -> io::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return Ok(());
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// How the descriptors of the process are allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    max: usize,
    reserve: usize,
}

impl Descriptors {
    /// Derived from the limit of this process; `redis_pool` connections of the pool are part of the reserve.
    #[must_use]
    pub fn of_process(redis_pool: usize) -> Self {
        let max = getrlimit(Resource::Nofile).current.and_then(|max| usize::try_from(max).ok());
        Self::new(max.unwrap_or(usize::MAX), redis_pool)
    }

    fn new(max: usize, redis_pool: usize) -> Self {
        // With a very low limit, clients still get a quarter, regardless of the reserve.
        let reserve = (PUBLIC_SPARES + OPERATIONS_SPARES + REDIS_LINKS + redis_pool).min(max - max / 4);
        Self { max, reserve }
    }

    /// Descriptors that the process may open.
    #[must_use]
    pub const fn max(self) -> usize {
        self.max
    }

    /// Descriptors that are not available to clients: the reserve, and those always in use.
    #[must_use]
    pub const fn kept(self) -> usize {
        self.reserve + BASE
    }

    /// Maximum number of connected clients.
    #[must_use]
    pub fn connections_max(self) -> usize {
        self.max.saturating_sub(self.kept()).max(self.max / 8)
    }

    /// Whether a descriptor that was just opened belongs to the reserve. The system assigns the lowest free number, so
    /// all lower ones are in use.
    #[must_use]
    pub fn is_reserved(self, descriptor: RawFd) -> bool {
        usize::try_from(descriptor).is_ok_and(|number| number >= self.max - self.reserve)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_the_reserve_leaves() {
        let large = Descriptors::new(1_048_576, 16);
        assert_eq!((large.kept(), large.connections_max()), (104, 1_048_472));
        assert!(large.is_reserved(1_048_504) && !large.is_reserved(1_048_503));
        let small = Descriptors::new(256, 16);
        assert_eq!(small.connections_max(), 152);
        assert!(small.is_reserved(184) && !small.is_reserved(183));
        let tiny = Descriptors::new(64, 16);
        assert!(tiny.connections_max() > 0 && tiny.is_reserved(16) && !tiny.is_reserved(15));
        let unlimited = Descriptors::new(usize::MAX, 16);
        assert!(unlimited.connections_max() > 1 << 40 && !unlimited.is_reserved(RawFd::MAX));
    }

    #[test]
    fn the_limit_of_this_process_is_raised_and_read() {
        raise_limit().unwrap();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
        let max = current.map_or(usize::MAX, |max| max as usize);
        assert_eq!(Descriptors::of_process(16).max(), max);
    }
}
