//! The `tickgate` program.

use std::process::ExitCode;

/// Many small allocations that live from one thread to another: what mimalloc is good at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tickgate::cli::main()
}
