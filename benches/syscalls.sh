#!/usr/bin/env bash
# System calls of the gateway per delivery: benches/syscalls.sh [workload ...]
# Counts with perf for five seconds in the middle of a workload, which costs it next to nothing (strace would make it
# another workload). Wants perf with the right to trace, curl and a release build (benches/run.sh makes one).
set -euo pipefail
cd "$(dirname "$0")/.."
command -v perf curl >/dev/null || { echo "needs perf and curl" >&2; exit 1; }
[ $# -gt 0 ] || set -- fan-out-50 fan-out topics topics-4000

events=(raw_syscalls:sys_enter)
for call in sendto writev recvfrom epoll_wait epoll_ctl write read futex; do
    events+=("syscalls:sys_enter_$call")
done
counts=$(mktemp)
trap 'rm -f "$counts"' EXIT
echo "| workload | per delivery | of which |"
echo "|---|--:|---|"
for workload in "$@"; do
    target/release/tickgate bench --server-cpu 0 --load-cpu 1 --runs 1 --seconds 9 "$workload" >/dev/null 2>&1 &
    bench=$!
    until server=$(pgrep -P "$bench" -f 'tickgate serve'); do sleep 0.1; done
    operations=$(tr '\0' '\n' <"/proc/$server/environ" | sed -n 's/^TICKGATE__SERVER__OPS_LISTEN=//p')
    deliveries() { curl -s "$operations/metrics" | awk '$1 == "tickgate_deliveries_total" { print $2 }'; }
    sleep 3
    before=$(deliveries)
    perf stat -x , -o "$counts" -p "$server" $(printf -- '-e %s ' "${events[@]}") sleep 5
    after=$(deliveries)
    awk -F , -v name="$workload" -v deliveries=$((after - before)) '
        $1 ~ /^[0-9]+$/ && $3 ~ /raw_syscalls/ { all = $1; next }
        $1 ~ /^[0-9]+$/ && $1 / deliveries >= 0.005 {
            sub(/.*sys_enter_/, "", $3)
            list = list sprintf("%s%s %.2f", list == "" ? "" : ", ", $3, $1 / deliveries)
        }
        END { printf "| %s | %.2f | %s |\n", name, all / deliveries, list }' "$counts"
    wait "$bench"
done
