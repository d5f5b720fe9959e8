//! The errors with which Redis refuses a command, in one table: it determines the metric label, the log text, and how
//! the gateway reacts. Pure.

use crate::metrics;

/// Rows: the kind (also the metric label), Redis's own code, whether it may be temporary, and what it means.
macro_rules! refusals {
    ($($kind:ident $code:literal $fate:ident $meaning:literal;)+) => {
        /// Why Redis refused a command. Nothing was executed, unless a script was interrupted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum RefusalKind {
            $(#[doc = concat!("`", $code, "`: ", $meaning, ".")] $kind),+
        }

        impl RefusalKind {
            /// All kinds, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];

            /// The first word of Redis's error.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$kind => $code),+ }
            }

            /// What it means, as text.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$kind => $meaning),+ }
            }

            /// Whether the same command may succeed later without a change of permissions or of the gateway.
            #[must_use]
            pub const fn is_passing(self) -> bool {
                match self { $(Self::$kind => refusals!(@$fate)),+ }
            }

            /// The metric label.
            #[must_use]
            pub const fn label(self) -> metrics::RedisError {
                match self { $(Self::$kind => metrics::RedisError::$kind),+ }
            }
        }
    };
    (@passes) => { true };
    (@stays) => { false };
}

refusals! {
    Loading "LOADING" passes "redis is loading its data set";
    ReadOnly "READONLY" passes "redis is a read-only replica";
    MasterDown "MASTERDOWN" passes "redis is a replica that lost its primary";
    Oom "OOM" passes "redis is out of memory";
    Misconf "MISCONF" passes "redis cannot write to its disk";
    NoReplicas "NOREPLICAS" passes "redis has fewer replicas than it requires for writes";
    Busy "BUSY" passes "redis is busy with a script";
    Stale "STALE" passes "redis is in another generation";
    Format "FORMAT" stays "redis holds another format";
    NoScript "NOSCRIPT" passes "redis does not know the script";
    Moved "MOVED" passes "redis moved the key to another server";
    Ask "ASK" passes "redis is moving the key to another server";
    TryAgain "TRYAGAIN" passes "redis is moving some of the keys";
    ClusterDown "CLUSTERDOWN" passes "the redis cluster is down";
    CrossSlot "CROSSSLOT" stays "redis requires the keys in one slot";
    WrongType "WRONGTYPE" stays "redis has a value of another type under the key";
    NoPerm "NOPERM" stays "the redis user lacks a right";
    NoAuth "NOAUTH" stays "redis requires a password";
    WrongPass "WRONGPASS" stays "redis does not accept user and password";
}

impl RefusalKind {
    /// The kind of an error with this code; `None` if it is not in the table.
    #[must_use]
    pub fn of(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.code() == code)
    }

    /// Authentication or permissions: an operator must fix it.
    #[must_use]
    pub const fn is_denial(self) -> bool {
        matches!(self, Self::NoPerm | Self::NoAuth | Self::WrongPass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_label_is_the_lower_case_code_and_documented() {
        let runbook = include_str!("../../docs/operations.md");
        for kind in RefusalKind::ALL {
            assert_eq!(kind.label().as_str(), kind.code().to_lowercase());
            assert_eq!(RefusalKind::of(kind.code()), Some(*kind));
            let row = format!("| `{}` |", kind.label().as_str());
            assert!(runbook.contains(&row), "docs/operations.md explains `{}`", kind.label().as_str());
        }
        assert_eq!(RefusalKind::of("ERR"), None);
    }
}
