#!/usr/bin/env bash
# Installs the Debian package under a real systemd, and enables, reloads, kills, drains and removes it, with a client
# that must not miss a message. Requires root; installs systemd, adduser, redis-server and curl if missing.
#
#   tests/systemd/run.sh [PROGRAM]      default: target/dist/tickgate
#
# systemd is process 1 in separate namespaces, on a copy-on-write view of this machine's files, so no change remains.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
program=$(realpath "${1:-$root/target/dist/tickgate}")
# shellcheck source=tests/packages.sh
source "$root/tests/packages.sh"
[ "$(id -u)" = 0 ] || { echo "requires root"; exit 1; }
missing=()
[ -x /lib/systemd/systemd ] || missing+=(systemd)
for name in adduser redis-server curl; do
    [ -n "$(command -v "$name")" ] || missing+=("$name")
done
[ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"

work=$(mktemp -d)
first=
end() {
    [ -z "$first" ] || kill -9 "$first" 2>/dev/null || true
    rm -rf "$work"
}
trap end EXIT
package=$(COMPRESSION=-Znone "$root/deploy/debian/build.sh" "$program" "$work/debian")

WORK=$work unshare --pid --fork --mount --cgroup --uts --ipc --net --kill-child "$here/boot.sh" >"$work/boot.log" 2>&1 &
unshared=$!
for _ in $(seq 100); do
    first=$(pgrep -P "$unshared" || true)
    [ -n "$first" ] && [ "$(cat "/proc/$first/comm")" = systemd ] && break
    sleep 0.1
done
inside=(nsenter -t "$first" -m -p -i -u -n -C -r -w)
for _ in $(seq 300); do
    state=$(timeout 10 "${inside[@]}" systemctl is-system-running 2>/dev/null || true)
    [ "$state" = running ] || [ "$state" = degraded ] && break
    sleep 0.1
done
if ! timeout 300 "${inside[@]}" bash -c "$(cat "$here/inside.sh")" <"$package" >"$work/inside.log" 2>&1; then
    cat "$work/boot.log" "$work/inside.log"
    "${inside[@]}" journalctl --no-pager | tail -40
    exit 1
fi
grep '^ok ' "$work/inside.log"
