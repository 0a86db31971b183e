#!/bin/busybox sh
# /init of host C: load kvm_intel, hand over to Python. There is nothing but this image: no shares, no network.
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
while read -r module; do
    busybox insmod "$module" || echo "nested-init: cannot insert $module" >/dev/console
done </modules/order
busybox mkdir -p /dev/shm
busybox mount -t tmpfs tmpfs /dev/shm
busybox hostname nested-intel
# -S: no site, whose paths do not exist here and whose import is slow, emulated as it is.
/usr/bin/python3 -S /launch.py
busybox poweroff -f
