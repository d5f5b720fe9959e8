# shellcheck shell=bash
# To be sourced. Installs the Python and Node client libraries for tests, by name, into target/clients. Sets
# PYTHON to an interpreter that has them, and NODE_PATH.
libraries=${CARGO_TARGET_DIR:-$(dirname "${BASH_SOURCE[0]}")/../../target}/clients
mkdir -p "$libraries"
libraries=$(cd "$libraries" && pwd)
definitions=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

install_libraries() (
    set -e
    wanted=$(cat "$definitions/requirements.txt" "$definitions/package.json" | sha256sum)
    if [ "$(cat "$libraries/.installed" 2>/dev/null)" = "$wanted" ]; then
        exit 0
    fi
    python3 -m venv "$libraries/venv"
    "$libraries/venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$definitions/requirements.txt"
    # Without npm, the packages node-ws and node-redis are used: Debian's node finds them automatically.
    if command -v npm >/dev/null; then
        cp "$definitions/package.json" "$libraries/"
        npm install --prefix "$libraries" --no-audit --no-fund --no-update-notifier --silent
    fi
    echo "$wanted" >"$libraries/.installed"
)

install_libraries
export PYTHON=$libraries/venv/bin/python
export NODE_PATH=$libraries/node_modules
