//! Deliberate defects, to verify that the suites detect them. Only with the feature `simulation`, which tests enable
//! and a shipped program never has.

/// Declares the defects with their descriptions.
macro_rules! defects {
    ($($name:ident $about:literal;)+) => {
        /// A deliberate defect.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Defect { $(#[doc = $about] $name),+ }

        #[cfg(feature = "simulation")]
        impl Defect {
            /// The defect with this name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                [$(Self::$name),+].into_iter().find(|defect| format!("{defect:?}") == name)
            }
        }
    };
}

defects! {
    NoRepeatFilter "Messages that were delivered before are delivered again.";
    NoCompare "Positions are not compared with their streams after a link was lost, nor while they are quiet.";
    NoCanary "The pub/sub link is not probed.";
    NoReport "Replicas do not report acknowledged publications that a server lost.";
    NoSweep "The entries of a replica that has ended are not removed.";
    NoReplayIds "Replayed messages have no ids.";
    VitalTaskPanics "A vital task panics.";
    FeedRepeats "The feed accepts duplicate trades.";
    FeedSides "The feed reports the maker's side of a trade.";
    FeedEventTimes "The feed uses the time of the event as that of the trade.";
    FeedPingsAreData "The feed treats pings of the exchange as data.";
    FeedBursts "The feed sends control messages without a pause.";
    FeedCapitals "The feed requests streams in capitals.";
    FeedFloats "The feed converts prices to floating-point numbers.";
    FeedImpatience "The feed does not wait when the exchange asks it to.";
    FeedWithoutLease "The feed publishes without its lease.";
}

/// Whether the calling thread, or the whole process, has this defect.
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

    /// Enables a defect for the whole process.
    pub fn everywhere(defect: Defect) {
        let _ = EVERYWHERE.set(defect);
    }

    /// Runs `act` with a defect on this thread only.
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
