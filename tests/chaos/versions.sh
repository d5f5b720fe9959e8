#!/usr/bin/env bash
# The previous version and this one on one Redis, through a rolling restart and back, under traffic.
#
#   tests/chaos/versions.sh            the last tag before this commit, or the first commit with the current Redis format
#   tests/chaos/versions.sh v1.2.0     another version
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# The commit that introduced the format tg2, until there is a tag.
first=c142cbf
other=${1:-$(git describe --tags --abbrev=0 HEAD^ 2>/dev/null || echo "$first")}

out=$PWD/${CARGO_TARGET_DIR:-target}/versions
[[ ${CARGO_TARGET_DIR:-} != /* ]] || out=$CARGO_TARGET_DIR/versions
rm -rf "$out/source"
mkdir -p "$out/source"
git archive "$other" | tar -x -C "$out/source"
echo "== builds $other"
(cd "$out/source" && cargo build --locked --bin tickgate --target-dir "$out/build")
TICKGATE_OTHER_PROGRAM=$out/build/debug/tickgate cargo test --test chaos another_version -- --nocapture
