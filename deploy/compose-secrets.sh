#!/bin/sh
# Writes .env next to docker-compose.yml, with secrets generated on this machine. An existing file is kept.
set -eu
file=${1:-$(dirname "$0")/../.env}
[ -e "$file" ] && exit 0
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
umask 077
printf 'TICKGATE_TOKEN_SECRET=%s\nTICKGATE_API_KEY=%s\n' "$(random)" "$(random)" >"$file"
