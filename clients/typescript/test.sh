#!/usr/bin/env bash
# Builds and tests the TypeScript client and its examples: types, sizes, units, the client suite in Node and in Chromium, the
# hooks and the example pages in Chromium against real gateways, the package as it would be published.
#
#   clients/typescript/test.sh            everything
#   clients/typescript/test.sh units      only these steps (build units suite hooks pages package)
#
# Requires a built gateway (TICKGATE_BIN, or target/debug/tickgate) and suite (TICKGATE_SUITE, or target/debug's). Installs
# missing packages by name: nodejs, npm, chromium and redis-server from Debian, packages from npm from the lock files.
# Stops everything that it starts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$(cd ../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
export TICKGATE_BIN=${TICKGATE_BIN:-$target/debug/tickgate}
suite=${TICKGATE_SUITE:-$target/debug/tickgate-client-suite}
example=$root/examples/react-trading
# Used if Debian's Node is older than 20.
NODE=22.20.0
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(build units suite hooks pages package)

# shellcheck source=tests/packages.sh
. "$root/tests/packages.sh"

tools() {
    local missing=()
    command -v node >/dev/null || missing+=(nodejs)
    command -v npm >/dev/null || missing+=(npm)
    command -v chromium >/dev/null || missing+=(chromium)
    command -v ps >/dev/null || missing+=(procps)
    command -v redis-server >/dev/null || missing+=(redis-server)
    [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
    # Debian 12 has Node 18, which the client does not support; the package from npm is used instead.
    if [ "$(node --print 'Number(process.versions.node.split(".")[0]) >= 20')" != true ]; then
        local cpu
        case $(uname -m) in aarch64) cpu=arm64 ;; *) cpu=x64 ;; esac
        npm install --prefix "$target/node" --no-audit --no-fund --silent "node-linux-$cpu@$NODE"
        PATH=$target/node/node_modules/node-linux-$cpu/bin:$PATH
        [ "$(node --version)" = "v$NODE" ] || { echo "Node $NODE is required; this is $(node --version)" && return 1; }
    fi
    CHROMIUM=$(command -v chromium)
    export CHROMIUM
}

# Installs the packages of a lock file, unless they are installed.
packages() {
    local wanted
    wanted=$(sha256sum <package-lock.json)
    if [ "$(cat node_modules/.installed 2>/dev/null)" != "$wanted" ]; then
        npm ci --no-audit --no-fund --no-update-notifier --silent
        echo "$wanted" >node_modules/.installed
    fi
}

# In parallel: they mostly wait.
play_suite() {
    local failed=0 in_node
    "$suite" --jobs 4 --run "$(command -v node) $PWD/build/adapter-node.mjs" >build/suite-node.txt 2>&1 &
    in_node=$!
    node test/suite-chromium.mjs "$suite" >build/suite-chromium.txt 2>&1 || failed=1
    wait "$in_node" || failed=1
    for name in node chromium; do
        echo "suite in $name: $(grep 'scenarios' "build/suite-$name.txt" || tail -1 "build/suite-$name.txt")"
    done
    if [ $failed -ne 0 ]; then
        grep -hv '^ok' build/suite-node.txt build/suite-chromium.txt || true
    fi
    return $failed
}

run_step() {
    case $1 in
    build)
        node scripts/build.mjs
        npx tsc --noEmit
        node scripts/bundle-tests.mjs
        node scripts/sizes.mjs
        (cd "$example" && packages && npx tsc --noEmit && npx vite build --logLevel error)
        npx typedoc
        ;;
    units) node --test build/*.test.mjs ;;
    suite) play_suite ;;
    hooks) node --test build/*.browser.mjs ;;
    pages) node --test test/pages.test.mjs ;;
    package) node scripts/check-package.mjs ;;
    *)
        echo "no such step: $1"
        return 1
        ;;
    esac
}

tools
packages
for step in "${steps[@]}"; do
    began=$SECONDS
    echo "-- $step"
    run_step "$step"
    echo "-- $step: $((SECONDS - began)) s"
done
