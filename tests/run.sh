#!/usr/bin/env bash
# Builds, lints and runs every test: the whole gate, as continuous integration does.
#
#   tests/run.sh                  everything
#   tests/run.sh clients          only these steps (format, deny, lint, test, websocket, clients, typescript, python, operations)
#
# Takes about 25 minutes on two cores. Requires a Debian machine with Rust, and installs missing packages by name: Debian packages
# (redis-server, and Node and Python for virtual environments if needed), and packages from PyPI and npm for tests/clients,
# tests/deny and tests/websocket, into target/. clients/typescript/test.sh installs npm, Chromium and packages from lock files,
# clients/python/test.sh packages from PyPI from lock files.
# Stops everything that it starts: services do not start while packages are installed, and a process that a step leaves running is
# killed and counts as a failure.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(format deny lint test websocket clients typescript python operations)
mark="TICKGATE_TEST_RUN=$$-$RANDOM"
export "${mark?}" CARGO_TERM_PROGRESS_WHEN=never
# This build is used once, so incremental compilation is not worth its time.
[ -n "${CI:-}" ] && export CARGO_INCREMENTAL=0
summary=()
failed=0

say() { printf '\n== %s\n' "$*"; }

# shellcheck source=tests/packages.sh
. tests/packages.sh

tools() {
    if ! command -v cargo >/dev/null; then
        # shellcheck source=/dev/null
        [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
    fi
    if ! command -v cargo >/dev/null; then
        echo "Rust is missing: https://rustup.rs"
        return 1
    fi
    local missing=()
    command -v cc >/dev/null || missing+=(build-essential)
    command -v redis-server >/dev/null && command -v redis-cli >/dev/null || missing+=(redis-server)
    # A clock of its own for the Redis of one test.
    compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || missing+=(libfaketime)
    command -v openssl >/dev/null || missing+=(openssl)
    command -v curl >/dev/null || missing+=(curl ca-certificates)
    command -v python3 >/dev/null && python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
    command -v node >/dev/null || missing+=(nodejs)
    command -v npm >/dev/null || missing+=(node-ws node-redis)
    [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
}

# Runs a command with the client libraries installed; a plain `cargo test` ignores the tests that need them.
with_libraries() (
    # shellcheck source=tests/clients/libraries.sh
    . tests/clients/libraries.sh || exit 1
    export TICKGATE_TEST_PYTHON=$PYTHON
    "$@"
)

run_step() {
    case $1 in
    tools) tools ;;
    format) cargo fmt --all --check ;;
    deny) tests/deny/run.sh ;;
    lint) cargo clippy --workspace --all-targets --locked -- -D warnings ;;
    # Most tests spend most of their time waiting.
    test) RUST_TEST_THREADS=$((2 * $(nproc))) with_libraries \
        cargo test --workspace --locked --no-fail-fast -- --include-ignored ;;
    websocket) tests/websocket/run.sh ;;
    # The same build as for the tests: a plain `cargo build` uses other features of dependencies.
    clients) cargo test --workspace --locked --no-run && tests/clients/run.sh ;;
    typescript) cargo test --workspace --locked --no-run && cargo build --locked -p tickgate-client-suite &&
        clients/typescript/test.sh ;;
    python) cargo test --workspace --locked --no-run && cargo build --locked -p tickgate-client-suite &&
        clients/python/test.sh ;;
    operations) cargo test --workspace --locked --no-run && tests/ops/run.sh ;;
    *)
        echo "no such step: $1"
        return 1
        ;;
    esac
}

# Processes of this run that should have ended. A compiler cache may stay, because this script does not own it.
left_over() {
    local environ pid
    for environ in /proc/[0-9]*/environ; do
        pid=${environ#/proc/}
        pid=${pid%/environ}
        [ "$pid" = "$$" ] || [ "$pid" = "$BASHPID" ] || [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = sccache ] ||
            ! tr '\0' '\n' 2>/dev/null <"$environ" | grep -qx "$mark" || printf '%s ' "$pid"
    done 2>/dev/null
}

stop_left_over() {
    local pids
    pids=$(left_over)
    for pid in $pids; do
        echo "left running: $pid $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | cut -c1-120)"
        kill -KILL "$pid" 2>/dev/null
    done
    [ -z "$pids" ]
}
trap 'stop_left_over >/dev/null' EXIT
trap 'exit 130' INT TERM

for step in tools "${steps[@]}"; do
    say "$step"
    began=$SECONDS
    run_step "$step"
    result=$?
    stop_left_over || result=1
    outcome=passed
    if [ $result -ne 0 ]; then
        outcome=FAILED
        failed=$((failed + 1))
    fi
    summary+=("$(printf '%-12s %-7s %4d s' "$step" "$outcome" $((SECONDS - began)))")
    [ "$step" = tools ] && [ $result -ne 0 ] && break
done

say summary
printf '%s\n' "${summary[@]}"
if [ $failed -gt 0 ]; then
    echo "$failed failed"
    exit 1
fi
echo "all passed"
