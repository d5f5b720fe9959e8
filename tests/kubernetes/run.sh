#!/usr/bin/env bash
# Installs and operates the chart on a real control plane, with clients that must lose nothing.
#
#   tests/kubernetes/run.sh               everything
#   tests/kubernetes/run.sh journey       only scenarios whose name contains "journey" (any number of words)
#
# Requires root on Linux (namespaces, nftables), Go and Rust. Installs missing packages by name: Debian packages, and from PyPI
# those that tests/clients needs. Builds the control plane once, into target/kubernetes (README.md says how long this takes).
# Fails if a part is missing; skips nothing. Runs in its own namespaces: nothing is reachable from outside, and nothing keeps
# running afterwards, however it ends. Logs are in target/kubernetes/logs.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}

fail() {
    echo "run.sh: $*" >&2
    exit 1
}

"$here/build.sh" --check
[ "$(uname -s)" = Linux ] || fail "needs Linux: pods are processes in Linux namespaces"
[ "$(id -u)" = 0 ] || fail "needs root, for namespaces, mounts and the packet filter; try sudo"

missing=()
for pair in ip:iproute2 nft:nftables nsenter:util-linux setpriv:util-linux redis-server:redis-server redis-cli:redis-tools \
    openssl:openssl python3:python3 strip:binutils; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
# shellcheck source=tests/packages.sh
. "$root/tests/packages.sh"
[ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}" || fail "missing: ${missing[*]}"

mkdir -p "$target/kubernetes"
exec 9>"$target/kubernetes/lock"
flock --nonblock 9 || fail "another run in $target/kubernetes is under way"

TICKGATE_KUBERNETES_PROGRAMS=$("$here/build.sh" "$target/kubernetes")
if [ -z "${TICKGATE_BIN:-}" ]; then
    # shellcheck source=/dev/null
    command -v cargo >/dev/null || . "$HOME/.cargo/env" 2>/dev/null || fail "Rust is missing: https://rustup.rs"
    (cd "$root" && CARGO_TERM_PROGRESS_WHEN=never cargo build --locked)
    TICKGATE_BIN=$target/debug/tickgate
fi
# shellcheck source=tests/clients/libraries.sh
. "$root/tests/clients/libraries.sh"
export PYTHON TICKGATE_BIN TICKGATE_KUBERNETES_PROGRAMS PYTHONDONTWRITEBYTECODE=1
export TICKGATE_KUBERNETES_STATE=/run/tickgate-kubernetes TICKGATE_KUBERNETES_LOGS=$target/kubernetes/logs
rm -rf "$TICKGATE_KUBERNETES_LOGS"
mkdir -p "$TICKGATE_KUBERNETES_LOGS"

# When this shell ends, for any reason, the kernel kills the process that created the namespaces, and with it their process 1
# and every process in them.
setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child -- "$here/inside.sh" "$@" &
namespaces=$!
trap 'kill -KILL $namespaces 2>/dev/null || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
result=0
wait $namespaces || result=$?
exit $result
