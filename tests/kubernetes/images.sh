#!/usr/bin/env bash
# Builds the root file systems that represent container images, and records which image each one is.
#
#   tests/kubernetes/images.sh BINARY FOLDER
#
# The gateway's file system is built by the same script as in deploy/Dockerfile; entry point, user and environment are read
# from the Dockerfile. That of Redis contains this machine's redis-server and the programs for the chart's probes.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
binary=$1
folder=$2

# Programs with the libraries that they are linked with.
copy_programs() {
    local into=$1 program library
    shift
    for program in "$@"; do
        program=$(readlink -f "$(command -v "$program")")
        install -D -m 0755 "$program" "$into/usr/bin/$(basename "$program")"
        ldd "$program" | awk '/=> \//{print $3} /^[[:space:]]*\/.*ld-linux/{print $1}' | while read -r library; do
            install -D -m 0755 "$(readlink -f "$library")" "$into/usr${library#/usr}"
        done
    done
}

mkdir -p "$folder/redis/usr/bin" "$folder/redis/tmp"
for link in lib lib64 bin; do
    mkdir -p "$folder/redis/usr/$link"
    ln -sfn "usr/$link" "$folder/redis/$link"
done
copy_programs "$folder/redis" redis-server redis-cli dash cat grep
ln -sf dash "$folder/redis/usr/bin/sh"
# Debian's redis-server and redis-cli are one program, which behaves according to its name.
for name in redis-server redis-cli; do
    [ -e "$folder/redis/usr/bin/$name" ] || ln -s "$(basename "$(readlink -f "$(command -v "$name")")")" "$folder/redis/usr/bin/$name"
done
# glibc loads the libraries for name resolution at run time, so the binary does not list them.
libraries=$(dirname "$(ldd "$(command -v redis-server)" | awk '/libc\.so/{print $3}')")
for library in libnss_dns.so.2 libnss_files.so.2 libresolv.so.2; do
    [ ! -e "$libraries/$library" ] || install -D -m 0755 "$libraries/$library" "$folder/redis/usr${libraries#/usr}/$library"
done
mkdir -p "$folder/redis/etc"
echo 'hosts: files dns' >"$folder/redis/etc/nsswitch.conf"

cp "$binary" "$folder/tickgate.binary"
strip --strip-debug "$folder/tickgate.binary"
"$root/deploy/image/rootfs.sh" "$folder/tickgate.binary" "$folder/tickgate"
rm "$folder/tickgate.binary"

python3 - "$root/deploy/Dockerfile" "$folder" >"$folder/images.json" <<'PYTHON'
import json, re, sys

dockerfile, folder = sys.argv[1:]
stage = open(dockerfile).read().split("AS runtime")[1].replace("\\\n", " ")


def instruction(name):
    return re.search(rf"^{name} (.*)$", stage, re.MULTILINE)[1]


user, group = instruction("USER").split(":")
gateway = {
    "root": f"{folder}/tickgate",
    "entrypoint": json.loads(instruction("ENTRYPOINT")),
    "command": json.loads(instruction("CMD")),
    "env": re.findall(r"[A-Z_]+=\S+", instruction("ENV")),
    "user": int(user),
    "group": int(group),
}
redis = {"root": f"{folder}/redis", "entrypoint": [], "command": ["redis-server"], "env": [], "user": 0, "group": 0}
print(json.dumps({"tickgate/tickgate": gateway, "library/redis": redis}, indent=2))
PYTHON
