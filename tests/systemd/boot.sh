#!/usr/bin/env bash
# Becomes systemd, as process 1 of its own namespaces. WORK: a folder for the file system.
set -euo pipefail
mount --make-rprivate /
mount -t tmpfs tmpfs "$WORK"
cd "$WORK"
mkdir upper scratch root
mount -t overlay overlay -o "lowerdir=/,upperdir=upper,workdir=scratch" root
cd root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for folder in run tmp dev; do mount -t tmpfs tmpfs "$folder"; done
mkdir dev/pts dev/shm dev/mqueue dev/hugepages former
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mount -t devpts devpts dev/pts -o newinstance,ptmxmode=0666
ln -s pts/ptmx dev/ptmx
# systemd sets up a unit's view of the file system only if the root is a mount point.
pivot_root . former
cd /
umount -l /former
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=basic.target
