//! The registry's Lua scripts, each a file of its own.
//!
//! Never called in a form that only one Redis knows: EVALSHA, and loaded again where a server forgot.

use redis::{Cmd, Script};

macro_rules! scripts {
    ($($name:ident),*) => {
        /// All scripts, hashed once.
        #[derive(Debug)]
        pub(super) struct Scripts {
            $(pub $name: Script),*
        }

        impl Scripts {
            /// Their texts, to be loaded wherever a link stands to.
            pub(super) const TEXTS: &[&str] = &[$(include_str!(concat!("scripts/", stringify!($name), ".lua"))),*];

            pub(super) fn new() -> Self {
                Self { $($name: Script::new(include_str!(concat!("scripts/", stringify!($name), ".lua")))),* }
            }
        }
    };
}
scripts!(admit, bury, cluster, hold, readmit, record, release, replica, revoke);

/// A call of the script; its arguments are yet to be added.
pub(super) fn call(script: &Script, keys: &[&str]) -> Cmd {
    let mut cmd = redis::cmd("EVALSHA");
    cmd.arg(script.get_hash()).arg(keys.len()).arg(keys);
    cmd
}
