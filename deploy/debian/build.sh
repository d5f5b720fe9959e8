#!/bin/sh
# Builds a Debian package from a built gateway: deploy/debian/build.sh [PROGRAM] [FOLDER]
# Without arguments: target/dist/tickgate (`cargo build --profile dist`) into target/debian.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
program=${1:-$root/target/dist/tickgate}
folder=${2:-$root/target/debian}
version=$("$program" --version | cut -d' ' -f2)
architecture=$(dpkg --print-architecture)
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

install -D -m 755 "$program" "$stage/usr/bin/tickgate"
install -D -m 644 "$root/deploy/systemd/tickgate.service" "$stage/lib/systemd/system/tickgate.service"
install -D -m 644 "$root/deploy/systemd/tickgate.toml" "$stage/etc/tickgate/tickgate.toml"
install -D -m 644 "$root/LICENSE" "$stage/usr/share/doc/tickgate/copyright"
install -D -m 644 "$root/CHANGELOG.md" "$stage/usr/share/doc/tickgate/CHANGELOG.md"
install -d -m 755 "$stage/DEBIAN"
for script in postinst prerm postrm; do
    install -m 755 "$root/deploy/debian/$script" "$stage/DEBIAN/$script"
done
echo /etc/tickgate/tickgate.toml > "$stage/DEBIAN/conffiles"
cat > "$stage/DEBIAN/control" <<EOF
Package: tickgate
Version: $version
Architecture: $architecture
Maintainer: The Tickgate developers <tickgate@users.noreply.github.com>
Installed-Size: $(du -sk --exclude=DEBIAN "$stage" | cut -f1)
Depends: adduser, ca-certificates, libc6 (>= 2.34), libgcc-s1
Recommends: redis-server (>= 5:7.0) | valkey-server
Section: net
Priority: optional
Homepage: https://github.com/tickgate/tickgate
Description: real-time gateway for trading platforms
 WebSocket replicas over Redis: orders, fills, positions and market data
 reach browsers, terminals and bots on any replica, once and in order, or
 clients receive an explicit notice of exactly what is missing.
EOF
mkdir -p "$folder"
package="$folder/tickgate_${version}_$architecture.deb"
# The compression options are several words.
# shellcheck disable=SC2086
dpkg-deb ${COMPRESSION:--Zxz} --build --root-owner-group "$stage" "$package" > /dev/null
echo "$package"
