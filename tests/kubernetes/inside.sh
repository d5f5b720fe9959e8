#!/usr/bin/env bash
# The first process in the namespaces that run.sh creates. Prepares this machine's side of the cluster's network and a
# memory file system for its state, then runs the scenarios. When it ends, the kernel kills everything that it started.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

mount -t proc proc /proc
# The names of network namespaces and all state of the cluster: removed together with this mount namespace.
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns "$TICKGATE_KUBERNETES_STATE"

for setting in net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.ip_local_port_range="20000 60999" \
    net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0; do
    file=${setting%%=*}
    echo "${setting#*=}" >"/proc/sys/${file//./\/}"
done
ip link set lo up
# A default route, with nothing at its other end: without a route, the kernel would refuse addresses of Services before the
# packet filter can replace them.
ip link add uplink type veth peer name outside
ip link set outside up
ip link set uplink up
for host in 1 11 12 13; do
    ip addr add "10.10.0.$host/24" dev uplink
    ip addr add "fd00:10:10::$host/64" dev uplink nodad
done
ip route add default via 10.10.0.254 dev uplink src 10.10.0.1
ip route add default via fd00:10:10::fe dev uplink src fd00:10:10::1

# Not exec: process 1 also has to reap orphaned processes.
"$PYTHON" "$here/main.py" "$@"
