#!/usr/bin/env bash
# Searches for inputs that break a parser of untrusted input, guided by code coverage.
#
#   tests/fuzz/run.sh               every target, a minute each
#   tests/fuzz/run.sh json 600      one target, ten minutes
#
# Requires stable Rust and a C++ compiler: the coverage is LLVM's, and libFuzzer is linked in. Inputs that reach more code than
# the committed corpus are kept in target/fuzz/<target>/found, where the next search starts. A failing input is kept in
# target/fuzz/<target>/: fix the code, and add the input to the corpus under a descriptive name.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

targets=(json envelope names cursors configuration frames handshake tokens exchange)
seconds=${2:-60}
[ "${1:-all}" = all ] || targets=("$1")

out=${CARGO_TARGET_DIR:-target}/fuzz
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
host=$(rustc -vV | sed -n 's/^host: //p')
# The gateway's own versions of all dependencies, plus libFuzzer.
cp Cargo.lock tests/fuzz/guided/Cargo.lock
# With an explicit target, the flags do not apply to build scripts and macros.
RUSTFLAGS="$coverage" cargo build --release --manifest-path tests/fuzz/guided/Cargo.toml --target "$host" \
    --target-dir "$out/build"
program=$out/build/$host/release/guided

for target in "${targets[@]}"; do
    export TICKGATE_FUZZ_TARGET=$target
    found=$out/$target/found
    corpus=tests/fuzz/corpus/$target
    mkdir -p "$found"
    echo "== $target, $seconds s"
    if ! "$program" -max_total_time="$seconds" -max_len=4096 -timeout=5 -rss_limit_mb=1024 -print_final_stats=1 \
        -artifact_prefix="$out/$target/" "$found" "$corpus" >"$out/$target/log" 2>&1; then
        grep -v '^#[0-9]' "$out/$target/log" | tail -40
        input=$(sed -n 's/.*Test unit written to //p' "$out/$target/log" | tail -1)
        echo "again: TICKGATE_FUZZ_INPUT=$PWD/${input#"$PWD"/} cargo test --test fuzz $target"
        exit 1
    fi
    grep '^#[0-9]' "$out/$target/log" | tail -1
done
