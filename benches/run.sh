#!/usr/bin/env bash
# Builds the shipped profile and measures it: benches/run.sh [workload ...] (default: all; --list prints them).
# The gateway and the load get a core each; Redis shares the load's core, or has a third. Stops everything that it starts.
# Variables: RUNS (3), SECONDS_EACH (8), SERVER_CPU (0), LOAD_CPU (1), REDIS_CPU and OUT (target/bench);
# UPDATE_DOCS=1 writes the table into docs/benchmarks.md.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v redis-server taskset >/dev/null || { echo "requires redis-server and taskset (util-linux)" >&2; exit 1; }

cargo build --profile dist --locked -p tickgate -p tickgate-bench
# 18,000 connections need as many descriptors on each side.
ulimit -n "$(ulimit -Hn)"

pins=()
cores=$(nproc)
if ((cores >= 2)); then pins=(--server-cpu "${SERVER_CPU:-0}" --load-cpu "${LOAD_CPU:-1}"); fi
if ((cores >= 3)); then pins+=(--redis-cpu "${REDIS_CPU:-2}"); fi

# If permitted, all processes get priority over other work on the machine.
first=()
if [[ $(nice -n -10 nice 2>/dev/null) == -10 ]]; then first=(nice -n -10); fi

out=${OUT:-target/bench}
mkdir -p "$out"
"${first[@]}" target/dist/tickgate-bench "${pins[@]}" --runs "${RUNS:-3}" --seconds "${SECONDS_EACH:-8}" \
  --json "$out/figures.json" "$@" | tee "$out/figures.md"

if [[ ${UPDATE_DOCS:-} == 1 ]]; then
  awk -v table="$out/figures.md" '
    /^<!-- figures: end -->/ { inside = 0 }
    !inside { print }
    /^<!-- figures: begin -->/ { inside = 1; while ((getline line < table) > 0) print line }
  ' docs/benchmarks.md > "$out/benchmarks.md"
  cp "$out/benchmarks.md" docs/benchmarks.md
fi
