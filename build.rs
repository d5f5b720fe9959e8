//! Sets the compiler version and the commit of the build metric. Does not read the repository: release builds set
//! `TICKGATE_COMMIT`.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=RUSTC");
    println!("cargo:rerun-if-env-changed=TICKGATE_COMMIT");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output().ok().and_then(|out| String::from_utf8(out.stdout).ok());
    // `rustc 1.95.0 (hash date)`: the number is enough.
    let number = version.as_deref().and_then(|text| text.split(' ').nth(1)).unwrap_or("unknown").trim();
    println!("cargo:rustc-env=TICKGATE_RUSTC={number}");
}
