#!/bin/busybox sh
# /init of host B: lay a writable overlay over the read-only root shared by the runner, make it look like a normal
# system, run the job in it. Reads /job.env (written by the runner): TOKEN, RESULTS. The job itself is /job.sh.
/bin/busybox mkdir -p /usr/bin
/bin/busybox --install -s /usr/bin
export PATH=/usr/bin
. /job.env

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
insert() {
    while read -r module; do
        insmod "$module" || echo "nested-init: cannot insert $module" >/dev/console
    done <"$1"
}
# Relocating modules is the longest part of this boot, emulated as it is: half of them on the other CPU.
insert /modules/kvm.order &
insert /modules/system.order

mkdir -p /lower /overlay /new
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,ro,cache=loose root /lower || echo "nested-init: no root share"
mount -t tmpfs -o size=75% tmpfs /overlay
mkdir /overlay/upper /overlay/work
mount -t overlay -o lowerdir=/lower,upperdir=/overlay/upper,workdir=/overlay/work overlay /new

for name in proc sys dev; do
    mkdir -p /new/$name
    mount --bind /$name /new/$name
done
mount -t tracefs tracefs /new/sys/kernel/tracing
mount -t debugfs debugfs /new/sys/kernel/debug
mkdir -p /new/dev/pts /new/dev/shm /new/run
mount -t devpts -o ptmxmode=0666 devpts /new/dev/pts
mount -t tmpfs tmpfs /new/dev/shm
mount -t tmpfs tmpfs /new/run
# What udev would do, and nothing else does here.
ln -s /proc/self/fd /new/dev/fd
ln -s /proc/self/fd/0 /new/dev/stdin
ln -s /proc/self/fd/1 /new/dev/stdout
ln -s /proc/self/fd/2 /new/dev/stderr
wait # for kvm
chmod 666 /new/dev/kvm /new/dev/net/tun
if [ -n "$RESULTS" ]; then
    # Mounted where the runner has it, so that a path in the command means the same on both sides.
    # cache=mmap, as without any cache a file there could not be mapped for writing.
    mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=mmap results "/new$RESULTS" ||
        echo "nested-init: no results share" >/new/dev/console
fi
ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
    ip addr add 10.0.2.15/24 dev eth0
    ip link set eth0 up
fi
hostname nested-amd
cp /job.sh /new/run/job.sh

# Proof of life for the runner, on the kernel's console and not among the command's output.
(while :; do echo alive; sleep 5; done >/new/dev/ttyS0) &

# The port is a raw byte pipe: no terminal between that would turn LF into CR LF.
exec 3>/new/dev/vport0p1
printf '\036pyvmm:%s:start\n' "$TOKEN" >&3
chroot /new /bin/sh /run/job.sh </dev/null >&3 2>&3 3>&-
status=$?
sync
printf '\036pyvmm:%s:exit %d\n' "$TOKEN" $status >&3

# The runner ends the emulator as soon as it has the status: this is for the case that nobody listens.
sleep 30
reboot -f
