//! The fuzz targets under libFuzzer; `TICKGATE_FUZZ_TARGET` selects one.
#![no_main]

#[path = "../targets/mod.rs"]
mod targets;

use std::{env, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use targets::{TARGETS, FuzzTarget};

static TARGET: LazyLock<FuzzTarget> = LazyLock::new(|| {
    let wanted = env::var("TICKGATE_FUZZ_TARGET").unwrap_or_default();
    match TARGETS.iter().find(|(name, _)| *name == wanted) {
        Some((_, target)) => *target,
        None => panic!("TICKGATE_FUZZ_TARGET names no target: {wanted:?}"),
    }
});

fuzz_target!(|data: &[u8]| TARGET(data));
