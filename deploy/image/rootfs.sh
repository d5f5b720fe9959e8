#!/bin/sh
# Builds the root file system of the runtime image: the binary and the glibc files it needs, and no other program.
#
#   deploy/image/rootfs.sh <binary> <folder>
#
# Run by deploy/Dockerfile, and by the checks with the host's binary. The image contains no shell, no package manager and no
# user other than 65532.
set -eu

binary=$1
root=$2
mkdir -p "$root/usr/bin" "$root/etc/ssl/certs" "$root/tmp"
# The usual /usr merge, so that the loader's path /lib64/ld-linux-… points to the libraries under /usr.
for folder in lib lib64; do
    mkdir -p "$root/usr/$folder"
    ln -sfn "usr/$folder" "$root/$folder"
done
chmod 1777 "$root/tmp"

install -m 0755 "$binary" "$root/usr/bin/tickgate"

# The loader and every library that the binary is linked with, at the paths that the binary uses.
ldd "$binary" | awk '/=> \//{print $3} /^[[:space:]]*\/.*ld-linux/{print $1}' | while read -r library; do
    target=$root/usr${library#/usr}
    mkdir -p "$(dirname "$target")"
    install -m 0755 "$(readlink -f "$library")" "$target"
done
# glibc loads these at run time, to resolve host names with DNS and /etc/hosts, so the binary does not list them.
folder=$(dirname "$(ldd "$binary" | awk '/libc\.so/{print $3}')")
for library in libnss_dns.so.2 libnss_files.so.2 libresolv.so.2; do
    if [ -e "$folder/$library" ]; then
        install -m 0755 "$(readlink -f "$folder/$library")" "$root/usr${folder#/usr}/$library"
    fi
done

cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
echo 'tickgate:x:65532:65532:tickgate:/nonexistent:/usr/sbin/nologin' >"$root/etc/passwd"
echo 'tickgate:x:65532:' >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
