#!/bin/bash
# systemd as the first process of namespaces of its own, with the exporter's units and nothing else:
# boot.sh BINARY SERVICE SOCKET CGROUP. All that it mounts goes with the namespaces; CGROUP is the caller's.
set -eu
binary=$1 service=$2 socket=$3 cgroup=$4
if [ "${5:-}" != inside ]; then
    echo $$ > "$cgroup/cgroup.procs"
    exec unshare --pid --fork --kill-child --mount --cgroup --uts --ipc \
        bash "$0" "$binary" "$service" "$socket" "$cgroup" inside
fi
mount --make-rprivate /
mount -t tmpfs tmpfs /usr/local/bin
install -m 755 "$binary" /usr/local/bin/mediasoup-exporter
mount -t tmpfs tmpfs /etc/systemd/system
cp "$service" "$socket" /etc/systemd/system/
for place in /run /var/log /tmp; do mount -t tmpfs tmpfs $place; done
mount -t proc proc /proc
while umount -l /sys/fs/cgroup 2>/dev/null; do :; done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf -o mode=0700 bpf /sys/fs/bpf
export container=test
exec /lib/systemd/systemd --system --unit=mediasoup-exporter.service --log-target=console --show-status=0
