//! The `tickgate` program.
fn main() {}
