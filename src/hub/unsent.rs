//! Limits the unsent bytes in the kernel for one connection to what its client accepts in a fraction of a second. The
//! rest stays in the outbox, where a newer value can replace it. Pure: time is an argument.

use std::time::{Duration, Instant};

/// The initial limit: room for a burst to a distant client.
const FIRST: u32 = 64 * 1024;
const MIN: u32 = 1024;
const MAX: u32 = 256 * 1024;
/// Target time in which the client accepts what the kernel holds.
const AGE: Duration = Duration::from_millis(200);
/// Minimum time over which the client's speed is measured: kernels announce buffer space in bursts.
const MEASURED_MIN: Duration = Duration::from_millis(250);
/// The limit of a connection that was slow doubles after each such time without being slow.
const RELAX: Duration = Duration::from_secs(30);

/// The limit of one connection, which adapts to the client's speed.
#[derive(Clone, Debug)]
pub(crate) struct UnsentLimit {
    bytes: u32,
    /// The limit while nothing is known about the connection.
    first: u32,
    /// Bytes written since the kernel last held less than half of the limit.
    unchecked: u32,
    /// Set only while the socket is behind: when the measurement started, and the bytes written since.
    measured: Option<(Instant, u64)>,
    /// When the socket was last behind.
    recovered: Option<Instant>,
}

impl Default for UnsentLimit {
    fn default() -> Self {
        Self::starting_with(FIRST)
    }
}

impl UnsentLimit {
    /// Starts with this limit.
    pub(crate) fn starting_with(bytes: u32) -> Self {
        Self { bytes, first: bytes, unchecked: 0, measured: None, recovered: None }
    }

    /// The limit to set in the kernel, which reports a socket as writable when it holds less than half of it unsent.
    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Maximum size of one write.
    pub(crate) fn chunk(&self) -> usize {
        self.bytes as usize / 2
    }

    /// Whether the kernel must be checked before writing this many bytes.
    pub(crate) fn needs_check(&self, bytes: usize) -> bool {
        self.unchecked as usize + bytes > self.chunk()
    }

    /// The socket is writable: the kernel holds less than half of the limit.
    pub(crate) fn is_writable(&mut self) {
        self.unchecked = 0;
    }

    /// Records a write of this many bytes.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.unchecked = self.unchecked.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        if let Some((_, written)) = &mut self.measured {
            *written += bytes as u64;
        }
    }

    /// The socket fell behind. True if the limit changed.
    pub(crate) fn fell_behind(&mut self, now: Instant) -> bool {
        let Some(recovered) = self.recovered.take() else { return false };
        let relaxed = now.saturating_duration_since(recovered).div_duration_f64(RELAX).exp2();
        self.set((f64::from(self.bytes) * relaxed).min(self.first.max(self.bytes).into()) as u32)
    }

    /// The kernel has sent all but half of the limit: the client's speed is measured between such moments. True if the
    /// limit changed.
    pub(crate) fn drained(&mut self, now: Instant) -> bool {
        let Some((since, written)) = self.measured else {
            self.measured = Some((now, 0));
            return false;
        };
        let elapsed = now.saturating_duration_since(since);
        if elapsed < MEASURED_MIN {
            return false;
        }
        self.measured = Some((now, 0));
        let fitting = (written as f64 * AGE.div_duration_f64(elapsed)).clamp(MIN.into(), MAX.into()) as u32;
        // Small changes are not worth a system call.
        let changes = fitting.abs_diff(self.bytes) > self.bytes / 4 && self.set(fitting);
        if changes {
            // Half of the limit is a different amount now: the next measurement starts at the next such moment.
            self.measured = None;
        }
        changes
    }

    /// The queue is empty again.
    pub(crate) fn recovered(&mut self, now: Instant) {
        self.measured = None;
        self.recovered = Some(now);
    }

    fn set(&mut self, bytes: u32) -> bool {
        std::mem::replace(&mut self.bytes, bytes) != bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates a client that accepts this many bytes per second from a kernel with this limit.
    fn read(limit: &mut UnsentLimit, bytes_per_s: f64, mut now: Instant, seconds: f64) -> Instant {
        let end = now + Duration::from_secs_f64(seconds);
        while now < end {
            now += Duration::from_secs_f64(limit.chunk() as f64 / bytes_per_s);
            limit.is_writable();
            limit.drained(now);
            assert!(!limit.needs_check(limit.chunk()) && limit.needs_check(limit.chunk() + 1));
            limit.wrote(limit.chunk());
        }
        now
    }

    #[test]
    fn the_kernel_holds_less_than_half_a_second_for_a_slow_client() {
        let mut now = Instant::now();
        let mut limit = UnsentLimit::default();
        for kib_per_s in [64.0, 16.0, 300.0, 10.0, 128.0, 4.0] {
            limit.fell_behind(now);
            now = read(&mut limit, kib_per_s * 1024.0, now, 20.0);
            let seconds = f64::from(limit.bytes()) / 1024.0 / kib_per_s;
            assert!((0.1..=0.3).contains(&seconds), "{kib_per_s} KiB/s: {seconds} s");
        }
    }

    #[test]
    fn the_kernel_always_holds_at_least_a_few_messages_and_at_most_a_burst() {
        let (mut limit, mut now) = (UnsentLimit::default(), Instant::now());
        now = read(&mut limit, 100.0, now, 2_000.0);
        assert_eq!(limit.bytes(), MIN);
        read(&mut limit, 1e9, now, 5.0);
        assert_eq!(limit.bytes(), MAX);
    }

    #[test]
    fn a_client_that_was_slow_long_ago_gets_the_initial_limit() {
        let (mut limit, mut now) = (UnsentLimit::default(), Instant::now());
        now = read(&mut limit, 16_384.0, now, 20.0);
        let slow = limit.bytes();
        limit.recovered(now);
        assert!(!limit.fell_behind(now), "it is immediately as slow as before");
        limit.recovered(now);
        limit.fell_behind(now + RELAX);
        assert_eq!(limit.bytes(), 2 * slow);
        limit.recovered(now);
        limit.fell_behind(now + 20 * RELAX);
        assert_eq!(limit.bytes(), FIRST);
    }
}
