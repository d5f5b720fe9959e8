//! When bytes arrived at a reader that leaves them in the kernel's buffer for a while. Does not read them.

use std::collections::VecDeque;

/// The arrivals on one connection. Positions count the received bytes.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    read: u64,
    /// Samples, oldest first: the position up to which bytes had arrived, and the time.
    seen: VecDeque<(u64, u64)>,
}

impl Arrivals {
    /// This many bytes wait in the kernel now.
    pub(crate) fn waiting(&mut self, bytes: u64, now_ns: u64) {
        let position = self.read + bytes;
        if self.seen.back().is_none_or(|(last, _)| *last < position) {
            self.seen.push_back((position, now_ns));
        }
    }

    /// This many bytes are read now. Returns when the last of them was first seen; `None` if it arrived after the last
    /// sample.
    pub(crate) fn read(&mut self, bytes: u64) -> Option<u64> {
        self.read += bytes;
        while self.seen.front().is_some_and(|(position, _)| *position < self.read) {
            self.seen.pop_front();
        }
        self.seen.front().map(|(_, at_ns)| *at_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrived_when_they_were_first_seen() {
        let mut arrivals = Arrivals::default();
        arrivals.waiting(0, 1);
        arrivals.waiting(100, 2);
        arrivals.waiting(100, 3);
        arrivals.waiting(150, 4);
        assert_eq!(arrivals.read(80), Some(2));
        arrivals.waiting(70, 5);
        assert_eq!(arrivals.read(20), Some(2));
        assert_eq!(arrivals.read(50), Some(4));
        assert_eq!(arrivals.read(1), None, "it arrived after the sample");
        arrivals.waiting(9, 6);
        assert_eq!(arrivals.read(9), Some(6));
    }
}
