//! Deliberate defects, by which the suites show that they can fail. Present with the feature `simulation` only, which
//! tests enable and a shipped program never has.

/// Declares the defects, with what is wrong with each.
macro_rules! defects {
    ($($name:ident $about:literal;)+) => {
        /// What is left out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Defect { $(#[doc = $about] $name),+ }

        #[cfg(feature = "simulation")]
        impl Defect {
            /// By its name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                [$(Self::$name),+].into_iter().find(|defect| format!("{defect:?}") == name)
            }
        }
    };
}

defects! {
    NoRepeatFilter "What was delivered before is delivered again.";
    NoCompare "Positions are not compared with their streams after a link was lost, nor while they are quiet.";
    NoCanary "Nobody looks whether the pub/sub link still hears anything.";
    NoReport "What a server lost is not reported by those who had acknowledged it.";
    NoSweep "Nobody cleans up after a replica that is gone.";
    NoReplayIds "What is replayed has no ids.";
    VitalTaskPanics "A task that the replica can't do without panics.";
    FeedRepeats "The feed takes trades again that it has had.";
    FeedSides "The feed reports the maker's side of a trade.";
    FeedEventTimes "The feed takes the time of an event for that of its trade.";
    FeedPingsAreData "The feed takes pings of the exchange for data.";
    FeedBursts "The feed sends control messages without a pause.";
    FeedCapitals "The feed asks for streams in capitals.";
    FeedFloats "The feed turns prices into floating-point numbers.";
    FeedImpatience "The feed does not wait when the exchange tells it to.";
    FeedWithoutLease "The feed publishes without its lease.";
}

/// Whether the calling thread, or the whole process, works with this defect.
#[cfg(not(feature = "simulation"))]
#[inline]
pub(crate) const fn is(_: Defect) -> bool {
    false
}

#[cfg(feature = "simulation")]
pub(crate) use switch::is;
#[cfg(feature = "simulation")]
pub use switch::{everywhere, with};

#[cfg(feature = "simulation")]
mod switch {
    use std::{cell::Cell, sync::OnceLock};

    use super::Defect;

    thread_local! {
        static SET: Cell<Option<Defect>> = const { Cell::new(None) };
    }

    static EVERYWHERE: OnceLock<Defect> = OnceLock::new();

    /// The whole process works with a defect from now on.
    pub fn everywhere(defect: Defect) {
        let _ = EVERYWHERE.set(defect);
    }

    /// Runs `act` with a defect on this thread, and on it alone.
    pub fn with<R>(defect: Option<Defect>, act: impl FnOnce() -> R) -> R {
        let before = SET.replace(defect);
        let result = act();
        SET.set(before);
        result
    }

    pub(crate) fn is(defect: Defect) -> bool {
        SET.get() == Some(defect) || EVERYWHERE.get() == Some(&defect)
    }
}
