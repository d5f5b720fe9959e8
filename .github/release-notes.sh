#!/usr/bin/env bash
# Prints a version's section of CHANGELOG.md: release-notes.sh 1.2.3. Fails if the section is missing or empty.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=${1:?which version?}
notes=$(awk -v version="$version" '
    /^## / { inside = $2 == version || $2 == "[" version "]"; next }
    inside { print }
' CHANGELOG.md)
if [ -z "${notes//[[:space:]]/}" ]; then
    echo "CHANGELOG.md has no section for $version" >&2
    exit 1
fi
printf '%s\n' "$notes"
