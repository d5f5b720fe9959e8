# shellcheck shell=bash
# Operates the package on a machine that runs systemd, with the commands of an operator. Reads the package from standard input.
set -euo pipefail

fail() { echo "FAIL  $*"; exit 1; }
property() { systemctl show -P "$1" tickgate; }
until_true() {
    for _ in $(seq 150); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    fail "never: $*"
}
ready() { curl -fsS http://127.0.0.1:8000/readyz; }
publish() {
    curl -s -o /dev/null -w '%{http_code}' 127.0.0.1:8001/api/v1/publish -H "Authorization: Bearer $1" \
        -H 'Content-Type: application/json' -d "{\"channel\":\"orders\",\"user\":\"alice\",\"data\":{\"type\":\"order_update\",\"n\":$2}}"
}
received() { [ "$(grep -c '"n":' /root/client.log)" -ge "$1" ]; }
refused() { [ "$(property ExecMainStatus)" = 2 ]; }
accepted() { [ "$(publish "$1" "$2")" = 200 ]; }

ip link set lo up
cat >/root/tickgate.deb
dpkg -i /root/tickgate.deb
[ "$(systemctl is-active tickgate)" = inactive ] || fail "started without secrets"
redis-server --port 6379 --save '' --daemonize yes
umask 027
secrets=/etc/tickgate/secrets
old=$(openssl rand -hex 32)
new=$(openssl rand -hex 32)
openssl rand -hex 32 >$secrets/token-secrets
echo "$old" >$secrets/api-keys
echo redis://127.0.0.1:6379/0 >$secrets/redis-url
chgrp tickgate $secrets/*
chmod 640 $secrets/*
runuser -u tickgate -- tickgate check-config --config /etc/tickgate/tickgate.toml --connect >/dev/null

systemctl enable --now tickgate
until_true ready
process=$(property MainPID)
grep -q '^CapEff:\s*0000000000000000$' "/proc/$process/status" || fail "it has capabilities"
grep -q '^NoNewPrivs:\s*1$' "/proc/$process/status" || fail "it may gain rights"
grep -q '^Seccomp:\s*2$' "/proc/$process/status" || fail "its system calls are not filtered"
[ "$(stat -c %U "/proc/$process")" = tickgate ] || fail "it does not run as tickgate"
echo "ok  enabled: ready, as tickgate, without a capability, its system calls filtered"

token=$(tickgate token --config /etc/tickgate/tickgate.toml --user alice)
tickgate tail --url ws://127.0.0.1:8000/ws/trading --token "$token" --json orders >/root/client.log 2>/root/client.err &
until_true grep -q . /root/client.log
[ "$(publish "$new" 0)" = 401 ] || fail "an unknown key publishes"
accepted "$old" 1 || fail "the key does not publish"
echo "$new" >>$secrets/api-keys
systemctl reload tickgate
until_true accepted "$new" 2
until_true received 2
[ "$(property MainPID)" = "$process" ] || fail "a reload started another process"
echo "ok  reloaded: a new key publishes, the client stayed connected"

kill -9 "$process"
until_true ready
[ "$(property NRestarts)" = 1 ] || fail "restarted $(property NRestarts) times"
until_true accepted "$new" 3
until_true received 3
echo "ok  killed: restarted, the client reconnected and received what it missed"

began=$(date +%s)
systemctl stop tickgate
took=$(($(date +%s) - began))
[ "$(property Result) $(property ExecMainStatus) $(property ActiveState)" = "success 0 inactive" ] || fail "the stop: $(property Result)"
[ "$took" -lt 60 ] || fail "the stop took $took s"
echo "ok  stopped: drained in $took s, exit code 0"

sed -i 's/^mode = .*/mode = "wrong"/' /etc/tickgate/tickgate.toml
systemctl start tickgate || true
until_true refused
sleep 2
[ "$(property ActiveState) $(property ExecMainStatus)" = "failed 2" ] || fail "a wrong setting: $(property ActiveState)"
journalctl -u tickgate --no-pager | grep -q 'server.mode' || fail "the journal does not say what is wrong"
echo "ok  an invalid setting: exit code 2, reported in the journal, no restart"

dpkg --purge tickgate
[ ! -e /usr/bin/tickgate ] || fail "the program is still there"
echo "ok  removed"
