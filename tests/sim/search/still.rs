//! Simulated time and randomness of the operating system: replaces the C library's functions, which the standard
//! library and its hash tables, `uuid` and everything else use. Only for threads that run a simulation.
#![allow(unsafe_code, reason = "stands in for two functions of the C library")]

use std::{
    cell::Cell,
    ffi::{c_int, c_uint, c_void},
};

/// The wall-clock time at which every run starts, in seconds since 1970.
pub const BEGINNING_S: u64 = 1_763_700_000;

thread_local! {
    /// Nanoseconds since the run started; `None` on threads without one.
    static NOW: Cell<Option<u64>> = const { Cell::new(None) };
    static RANDOM: Cell<u64> = const { Cell::new(0) };
}

/// From here on this thread has simulated time and randomness.
pub fn begin(seed: u64) {
    NOW.set(Some(0));
    RANDOM.set(seed);
}

/// Sets the time of this thread.
pub fn set(now_ns: u64) {
    NOW.set(Some(now_ns));
}

#[repr(C)]
pub struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, into: *mut Timespec) -> c_int {
    use rustix::time::ClockId;
    let time = match NOW.try_with(Cell::get).ok().flatten() {
        Some(now) => {
            let seconds = now / 1_000_000_000 + if clock == 0 { BEGINNING_S } else { 1_000_000 };
            Timespec { seconds: seconds.cast_signed(), nanoseconds: (now % 1_000_000_000).cast_signed() }
        }
        None => {
            let id = match clock {
                0 => ClockId::Realtime,
                2 => ClockId::ProcessCPUTime,
                3 => ClockId::ThreadCPUTime,
                _ => ClockId::Monotonic,
            };
            let time = rustix::time::clock_gettime(id);
            Timespec { seconds: time.tv_sec, nanoseconds: time.tv_nsec }
        }
    };
    // SAFETY: the caller supplies a valid pointer.
    unsafe { into.write(time) };
    0
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(into: *mut c_void, len: usize, _: c_uint) -> isize {
    if len == 0 {
        // Only checks whether the function exists.
        return 0;
    }
    // SAFETY: the caller supplies this many bytes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(into.cast::<u8>(), len) };
    if NOW.try_with(Cell::get).ok().flatten().is_some() {
        let mut dice = tickgate_kit::dice::Dice::new(RANDOM.get());
        bytes.iter_mut().for_each(|byte| *byte = dice.below(256).to_le_bytes()[0]);
        RANDOM.set(dice.below(u64::MAX));
    } else if rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
        return -1;
    }
    len.cast_signed()
}
