#!/usr/bin/env bash
# Checks everything that operators receive: image, compose, proxies, chart, manifests, alerts, dashboard.
#
#   tests/ops/run.sh              the quick checks (build the gateway first)
#   tests/ops/run.sh --live       also those that run the gateway behind real proxies and a real Prometheus
#   tests/ops/run.sh helm         only checks whose name contains "helm" (any number of words)
#
# Installs tools by name (PyPI, Debian, npm) into ${TICKGATE_OPS_CACHE:-~/.cache/tickgate-ops}, never into the system. A check
# whose tool is missing fails and names it. TICKGATE_OPS_OFFLINE=1 installs nothing.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${TICKGATE_OPS_CACHE:-$HOME/.cache/tickgate-ops}
export TICKGATE_OPS_CACHE=$cache PYTHONDONTWRITEBYTECODE=1

if ! command -v python3 >/dev/null; then
    echo "FAIL  everything: python3 is not installed"
    exit 1
fi

wanted=$(sha256sum "$here/requirements.txt" | cut -d' ' -f1)
if [ "$(cat "$cache/venv/.requirements" 2>/dev/null || true)" != "$wanted" ] && [ -z "${TICKGATE_OPS_OFFLINE:-}" ]; then
    mkdir -p "$cache"
    if python3 -m venv "$cache/venv" && "$cache/venv/bin/pip" install --quiet --requirement "$here/requirements.txt"; then
        echo "$wanted" >"$cache/venv/.requirements"
    else
        echo "note  could not install tests/ops/requirements.txt; checks that need it fail"
    fi
fi
python=python3
[ -x "$cache/venv/bin/python" ] && python=$cache/venv/bin/python
exec "$python" "$here/main.py" "$@"
