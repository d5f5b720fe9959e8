//! Deliberate defects, by which the suites show that they can fail. Never present in a release build.

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// What was delivered before is delivered again.
    NoRepeatFilter,
    /// Whatever comes next is taken for the successor.
    NoHoleCheck,
    /// Positions are not compared with their streams after a link was lost, nor while they are quiet.
    NoCompare,
}

/// Whether the calling thread works with this defect.
#[cfg(not(debug_assertions))]
#[inline]
pub(crate) const fn is(_: Defect) -> bool {
    false
}

#[cfg(debug_assertions)]
pub(crate) use switch::is;
#[cfg(debug_assertions)]
pub use switch::with;

#[cfg(debug_assertions)]
mod switch {
    use std::cell::Cell;

    use super::Defect;

    thread_local! {
        static SET: Cell<Option<Defect>> = const { Cell::new(None) };
    }

    /// Runs `act` with a defect on this thread, and on it alone.
    pub fn with<R>(defect: Option<Defect>, act: impl FnOnce() -> R) -> R {
        let before = SET.replace(defect);
        let result = act();
        SET.set(before);
        result
    }

    pub(crate) fn is(defect: Defect) -> bool {
        SET.get() == Some(defect)
    }
}
