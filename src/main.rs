//! The `tickgate` program.

use std::process::ExitCode;

/// Many small allocations that one thread makes and another frees, which mimalloc handles well.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tickgate::cli::main()
}
