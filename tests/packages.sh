# shellcheck shell=bash
# To be sourced. Installs Debian packages by name, for scripts that need a missing program.

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Installs the given packages without starting their services.
install_packages() {
    local policy=/usr/sbin/policy-rc.d result=0 said
    if ! command -v apt-get >/dev/null; then
        echo "not a Debian machine; please install: $*"
        return 1
    fi
    local ours=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null && as_root chmod 755 "$policy" && ours=1
    fi
    echo "installing $*"
    said=$(as_root apt-get update -qq 2>&1 &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" 2>&1) || {
        printf '%s\n' "$said" | tail -40
        result=1
    }
    [ -n "$ours" ] && as_root rm -f "$policy"
    return $result
}
