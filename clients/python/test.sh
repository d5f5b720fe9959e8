#!/usr/bin/env bash
# Builds and tests the Python packages: types, style, wheels, reference; then the wheels, installed into new virtual environments:
# unit tests with real gateways and a real Redis, the client suite for both APIs, Pydantic 1, other interpreters.
#
#   clients/python/test.sh            everything
#   clients/python/test.sh units      only these steps (build units models players; suite interpreters redis)
#   clients/python/test.sh lock       compiles the lock files (not a test)
#
# Requires a built gateway (TICKGATE_BIN, or target/debug/tickgate) and suite (TICKGATE_SUITE, or target/debug's). Installs
# missing packages by name: python3, python3-venv and redis-server from Debian, packages from PyPI from the lock files with their
# hashes. Stops everything that it starts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$(cd ../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
export TICKGATE_BIN=${TICKGATE_BIN:-$target/debug/tickgate}
suite=${TICKGATE_SUITE:-$target/debug/tickgate-client-suite}
work=$target/python
# Debian's; the step `interpreters` finds others.
PYTHON=${TICKGATE_PYTHON:-/usr/bin/python3}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(build units redis models players)

# The process whose forks are adapters.
warm=
trap '[ -z "$warm" ] || kill "$warm"' EXIT

# shellcheck source=tests/packages.sh
. "$root/tests/packages.sh"

tools() {
    local missing=()
    [ -x "$PYTHON" ] && "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
    command -v redis-server >/dev/null || missing+=(redis-server)
    [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "Python 3.11 is required; $PYTHON is $("$PYTHON" --version)"
        return 1
    }
    mkdir -p "$work"
}

# A virtual environment with the packages of a lock file, kept until the lock file or the interpreter changes.
environment() { # name, interpreter, lock file
    local directory=$work/$1 wanted
    wanted=$("$2" -c 'import sys; print(sys.version)' && sha256sum <"$3")
    if [ "$(cat "$directory/.installed" 2>/dev/null)" != "$wanted" ]; then
        rm -rf "$directory"
        "$2" -m venv "$directory"
        "$directory/bin/pip" install --quiet --no-deps --require-hashes --requirement "$3"
        echo "$wanted" >"$directory/.installed"
    fi
}

# A new virtual environment with the wheels, on top of the packages of an existing one.
fresh() { # name, interpreter, environment of the dependencies, beginning of the wheels' names
    local directory=$work/$1
    rm -rf "$directory"
    "$2" -m venv --without-pip "$directory"
    (cd "$work/$3" && echo "$PWD"/lib/python3.*/site-packages) >"$(echo "$directory"/lib/python3.*/site-packages)/dependencies.pth"
    "$work/$3/bin/pip" --python "$directory/bin/python" install --quiet --no-deps --no-index \
        "$work/wheels/${4:-tickgate}"*.whl
}

build() {
    cp "$root/LICENSE" .
    cp "$root/LICENSE" socket-models/
    local bin=$work/tools/bin
    environment tools "$PYTHON" tests/requirements-tools.txt
    environment dependencies "$PYTHON" tests/requirements.txt
    "$bin/ruff" format --quiet --no-cache --check .
    "$bin/ruff" check --quiet --no-cache .
    "$bin/mypy" --cache-dir "$work/mypy" --no-error-summary --python-executable "$work/dependencies/bin/python"
    rm -rf "$work/wheels" "$work/api"
    "$bin/python" -m hatchling build --target wheel --directory "$work/wheels" >/dev/null
    (cd socket-models && "$bin/python" -m hatchling build --target wheel --directory "$work/wheels" >/dev/null)
    for wheel in "$work"/wheels/*.whl; do
        "$bin/python" -m zipfile -l "$wheel" | grep -q licenses/LICENSE || { echo "$wheel has no licence" >&2 && false; }
    done
    fresh fresh "$PYTHON" dependencies
    PYTHONPATH=$(echo "$work"/tools/lib/python3.*/site-packages) "$work/fresh/bin/python" -m pdoc --docformat google --output-directory "$work/api" tickgate socket_models \
        '!tickgate.testing.fixtures'
}

tests() { # environment, arguments of pytest
    "$work/$1/bin/python" -m pytest --timeout 120 "${@:2}"
}

# In parallel: they mostly wait. Adapters are forks of one process, which has imported everything.
play_suite() {
    local failed=0 in_asyncio python=$work/fresh/bin/python
    rm -f "$work/warm"
    "$python" tests/warm.py "$work/warm" serve &
    warm=$!
    while [ ! -S "$work/warm" ]; do kill -0 $warm && sleep 0.05; done
    "$suite" --jobs 4 --run "$python -I -S tests/warm.py $work/warm asyncio" >"$work/suite-asyncio.txt" 2>&1 &
    in_asyncio=$!
    "$suite" --jobs 4 --run "$python -I -S tests/warm.py $work/warm blocking" >"$work/suite-blocking.txt" 2>&1 || failed=1
    wait "$in_asyncio" || failed=1
    kill "$warm" && warm=
    for name in asyncio blocking; do
        echo "suite, $name: $(grep 'scenarios' "$work/suite-$name.txt" || tail -1 "$work/suite-$name.txt")"
    done
    if [ $failed -ne 0 ]; then
        grep -hv '^ok' "$work/suite-asyncio.txt" "$work/suite-blocking.txt" || true
    fi
    return $failed
}

# Interpreters of other versions, on the PATH or kept by pyenv.
others() {
    local python version known
    known=$("$PYTHON" -c 'import sys; print(sys.version_info[:2])')
    for python in $(compgen -c python3. | grep -x 'python3\.[0-9]*' | sort -u) "$HOME"/.pyenv/versions/3.*/bin/python3; do
        version=$("$python" -c 'import sys; assert sys.version_info >= (3, 11); print(sys.version_info[:2])' 2>/dev/null) ||
            continue
        case $known in *"$version"*) continue ;; esac
        known="$known $version"
        echo "$python"
    done
}

in_other() { # interpreter, name
    environment "dependencies-$2" "$1" tests/requirements.txt
    fresh "fresh-$2" "$1" "dependencies-$2"
    tests "fresh-$2" tests/models tests/test_connection.py tests/test_documents.py
}

interpreters() {
    local python name failed=0 running=()
    for python in $(others); do
        name=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        in_other "$python" "$name" >"$work/python-$name.txt" 2>&1 &
        running+=("$!:$name")
    done
    for python in "${running[@]}"; do
        name=${python#*:}
        wait "${python%%:*}" || { failed=1 && cat "$work/python-$name.txt"; }
        echo "Python $name: $(tail -1 "$work/python-$name.txt")"
    done
    [ ${#running[@]} -gt 0 ] || echo "no other interpreter was found"
    return $failed
}

lock() {
    "$PYTHON" -m venv "$work/lock"
    "$work/lock/bin/pip" install --quiet uv
    (cd tests && for name in requirements requirements-tools requirements-pydantic1; do
        "$work/lock/bin/uv" pip compile --quiet --universal --upgrade --python-version 3.11 --generate-hashes \
            --no-emit-index-url --custom-compile-command './test.sh lock' "$name.in" --output-file "$name.txt"
    done)
}

run_step() {
    case $1 in
    build) build ;;
    units) tests fresh --ignore tests/test_redis.py ;;
    suite) play_suite ;;
    redis) tests fresh tests/test_redis.py ;;
    models)
        environment pydantic1 "$PYTHON" tests/requirements-pydantic1.txt
        fresh fresh-pydantic1 "$PYTHON" pydantic1 tickgate_socket_models
        "$work/fresh-pydantic1/bin/python" -m pytest -q -c /dev/null --rootdir tests/models --confcutdir tests/models \
            -p no:cacheprovider tests/models
        ;;
    interpreters) interpreters ;;
    # Both mostly wait.
    players)
        interpreters >"$work/interpreters.txt" 2>&1 &
        local others=$! failed=0
        play_suite || failed=1
        wait "$others" || failed=1
        cat "$work/interpreters.txt"
        return $failed
        ;;
    lock) lock ;;
    *)
        echo "no such step: $1"
        return 1
        ;;
    esac
}

tools
for step in "${steps[@]}"; do
    began=$SECONDS
    echo "-- $step"
    run_step "$step"
    echo "-- $step: $((SECONDS - began)) s"
done
