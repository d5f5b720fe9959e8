#!/usr/bin/env bash
# Third-party clients against live gateways: Python's websockets and Node's ws, one replica and three on Redis.
#
#   tests/clients/run.sh              all
#   tests/clients/run.sh trading      only checks whose name contains "trading" (any number of words)
#
# Requires python3 with venv, node, redis-server, redis-cli, curl and a built gateway (TICKGATE_BIN, or target/debug's).
# Stops everything that it starts.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/clients/libraries.sh
. "$here/libraries.sh"
export PYTHONDONTWRITEBYTECODE=1
export TICKGATE_BIN=${TICKGATE_BIN:-$(dirname "$libraries")/debug/tickgate}
exec "$PYTHON" "$here/main.py" "$@"
