#!/usr/bin/env bash
# Checks that a tag (v1.2.3) names the version of Cargo.toml and of the chart.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tag=${1:?which tag?}
crate=$(awk -F '"' '/^version = / { print $2; exit }' Cargo.toml)
chart=$(awk '/^appVersion:/ { gsub(/"/, "", $2); print $2 }' helm/tickgate/Chart.yaml)
for version in "$crate" "$chart"; do
    if [ "v$version" != "$tag" ]; then
        echo "the tag is $tag, Cargo.toml has $crate, the chart's appVersion is $chart" >&2
        exit 1
    fi
done
