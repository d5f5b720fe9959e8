//! The benchmark against a real gateway: it starts what it measures, counts everything, and stops it again.
#![allow(clippy::unwrap_used, reason = "a missing value fails the test, as it should")]

use std::{path::Path, process::Command};

use serde_json::Value;

#[test]
fn a_short_benchmark_delivers_everything_in_order() {
    let program = env!("CARGO_BIN_EXE_tickgate-bench");
    let gateway = Path::new(program).with_file_name("tickgate");
    assert!(
        gateway.exists(),
        "{} is missing: build it with `cargo build` or `cargo test --workspace`",
        gateway.display()
    );
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("figures.json");
    let output = Command::new(program)
        .args(["--memory", "--runs", "1", "--seconds", "0.3", "fan-out-50", "fan-out-50-tls", "--json"])
        .arg(&json)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    for (workload, name) in figures["workloads"].as_array().unwrap().iter().zip(["fan-out-50", "fan-out-50-tls"]) {
        assert_eq!(workload["workload"], name);
        let median = &workload["median"];
        assert!(median["deliveries_per_s"].as_f64().unwrap() > 1000.0, "{median}");
        for name in ["lost", "skipped", "disordered", "gaps", "connections_lost"] {
            assert_eq!(median[name], 0.0, "{name}: {median}");
        }
        assert!(median["server_us_per_delivery"].as_f64().unwrap() > 0.0, "{median}");
    }
}
