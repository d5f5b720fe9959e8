#!/usr/bin/env bash
# Builds the parts of a cluster once: the control plane, Helm, and this folder's kubelet. Fetches the definitions of the custom
# resources that the chart can create. Prints the folder with the result.
#
#   tests/kubernetes/build.sh [FOLDER]    the cache; default: target/kubernetes
#   tests/kubernetes/build.sh --check     only checks that Go is installed and new enough
#
# Requires only the Go version in cluster/go.mod and the Go module proxy.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

HELM=helm.sh/helm/v3/cmd/helm@v3.21.4
# The modules with the definitions, and the files in them.
DEFINITIONS=(
    "github.com/prometheus-operator/prometheus-operator@v0.85.0 example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml"
    "github.com/prometheus-operator/prometheus-operator@v0.85.0 example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml"
    "github.com/prometheus-operator/prometheus-operator@v0.85.0 example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"
    "github.com/kedacore/keda/v2@v2.21.0 config/crd/bases/keda.sh_scaledobjects.yaml"
    "github.com/kedacore/keda/v2@v2.21.0 config/crd/bases/keda.sh_triggerauthentications.yaml"
    "sigs.k8s.io/gateway-api@v1.6.3 config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"
)

export GOTOOLCHAIN=local GOFLAGS=-mod=readonly CGO_ENABLED=0 GOWORK=off
# Two at a time: each large package needs a gigabyte, and the machine has other work.
jobs=${TICKGATE_KUBERNETES_JOBS:-2}

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

require_go() {
    local needed found
    needed=$(awk '$1 == "go" {print $2}' "$here/cluster/go.mod")
    command -v go >/dev/null || fail "Go is missing. Kubernetes is built from source: install Go $needed or later (https://go.dev/dl)"
    found=$(go env GOVERSION)
    found=${found#go}
    [ "$(printf '%s\n%s\n' "$needed" "${found%%[-+ ]*}" | sort -V | head -1)" = "$needed" ] ||
        fail "Go $found is too old: cluster/go.mod requires Go $needed or later (https://go.dev/dl)"
}

# All inputs of the build.
fingerprint() {
    (
        cd "$here"
        go version
        cat build.sh
        find cluster -type f | LC_ALL=C sort | xargs sha256sum
    ) | sha256sum | cut -c1-16
}

build() {
    local bin=$1/bin
    mkdir -p "$bin" "$1/definitions"
    (
        cd "$here/cluster"
        version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
        numbers=${version#v}
        base=k8s.io/component-base/version
        # Without symbols, which are a third of the size. With a version, because charts that require one refuse a
        # server without it.
        go build -p "$jobs" -trimpath -tags grpcnotrace -o "$bin/" -ldflags="-s -w -X $base.gitVersion=$version \
            -X $base.gitMajor=${numbers%%.*} -X $base.gitMinor=$(cut -d. -f2 <<<"$numbers")" ./...
    )
    GOFLAGS='' GOBIN=$bin go install -p "$jobs" -trimpath -ldflags='-s -w' "$HELM"
    local line module file
    for line in "${DEFINITIONS[@]}"; do
        read -r module file <<<"$line"
        cp "$(module_folder "$module")/$file" "$1/definitions/"
    done
    chmod -R u+w "$1/definitions"
}

# Outside any module, so that only this module is downloaded. Go verifies its checksum.
module_folder() {
    (cd / && GOFLAGS=-mod=mod go mod download -json "$1") | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'
}

require_go
[ "${1:-}" != --check ] || exit 0
cache=${1:-$here/../../target/kubernetes}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
built=$cache/$(fingerprint)
if [ ! -d "$built" ]; then
    began=$SECONDS
    echo "building the control plane, Helm and the kubelet; this takes a while, once" >&2
    unfinished=$(mktemp -d "$cache/unfinished.XXXXXX")
    trap 'rm -rf "$unfinished"' EXIT
    build "$unfinished" >&2
    # Builds of other module versions: a quarter of a gigabyte each.
    find "$cache" -mindepth 1 -maxdepth 1 -type d -regex '.*/[0-9a-f]+' -exec rm -rf {} +
    mv "$unfinished" "$built"
    echo "built in $((SECONDS - began)) s" >&2
fi
echo "$built"
