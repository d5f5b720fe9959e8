#!/usr/bin/env bash
# The public WebSocket conformance cases (Autobahn) against the gateway's own serving path, which echoes all messages.
#
#   tests/websocket/run.sh            the core: groups 1 to 7 and 10, in seconds
#   tests/websocket/run.sh 9          other groups, such as 9 (large messages)
#   tests/websocket/run.sh public     the public suite's own program, groups 1 to 7, 9 and 10
#
# Installs the cases from PyPI, by name and hash, into target/websocket. The suite's own program requires Python 2.7;
# TICKGATE_PYTHON2 is the path of one with pip (default: python2.7, or pyenv's). The other commands require only Python 3 and run
# the same cases with tests/websocket/cases.py. Stops everything that it starts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
here=tests/websocket
target=${CARGO_TARGET_DIR:-target}
out=$target/websocket
suite=$out/autobahntestsuite-25.10.1
mkdir -p "$out"

get_cases() {
    [ -d "$suite" ] && return
    [ -x "$out/env/bin/pip" ] || python3 -m venv "$out/env"
    "$out/env/bin/pip" download -q --disable-pip-version-check --no-deps --no-binary :all: --require-hashes \
        -r "$here/requirements.txt" -d "$out"
    tar -xzf "$suite.tar.gz" -C "$out"
}

find_python2() {
    local python
    for python in "${TICKGATE_PYTHON2:-python2.7}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7.*/bin/python2.7; do
        if "$python" -c 'import pip' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    return 1
}

get_program() {
    [ -x "$out/env2/bin/wstest" ] && return
    local python
    python=$(find_python2) || {
        echo "The suite's own program requires Python 2.7, which was not found: set TICKGATE_PYTHON2 to its path" \
            "(such as pyenv's). Without it, tests/websocket/run.sh runs the same cases by Python 3." >&2
        exit 1
    }
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONWARNINGS=ignore
    "$python" -m pip install -q --target "$out/virtualenv" virtualenv==20.15.1 2>"$out/install.log" &&
        PYTHONPATH=$out/virtualenv "$python" -m virtualenv -q "$out/env2" 2>>"$out/install.log" &&
        "$out/env2/bin/pip" install -q autobahntestsuite==25.10.1 2>>"$out/install.log" || {
        cat "$out/install.log" >&2
        exit 1
    }
}

cargo build -q --locked --example echo
coproc echo_server { exec "$target/debug/examples/echo" 127.0.0.1:0; }
server=$echo_server_PID
trap 'kill "$server" 2>/dev/null || true' EXIT
read -r url <&"${echo_server[0]}"

if [ "${1:-}" = public ]; then
    get_program
    cat >"$out/spec.json" <<SPEC
{"outdir": "$out/report", "servers": [{"agent": "tickgate", "url": "$url"}], "exclude-cases": [],
 "exclude-agent-cases": {}, "cases": ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]}
SPEC
    "$out/env2/bin/wstest" -m fuzzingclient -s "$out/spec.json" >"$out/public.log"
    python3 "$here/report.py" "$out/report/index.json"
else
    get_cases
    PYTHONDONTWRITEBYTECODE=1 python3 "$here/cases.py" "$suite" "$url" "$@"
fi
