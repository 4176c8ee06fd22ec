#!/bin/busybox sh
# The initial RAM disk's init: the host's root over 9p, read-only, with a tmpfs on top; everything
# that is mounted on a system; then on to guest_init.sh.  All of it with one static busybox, since
# starting a program from the host's file system costs far more.
B=/bin/busybox
$B mount -t proc proc /proc; $B mount -t sysfs sys /sys; $B mount -t devtmpfs dev /dev
for module in /modules/*; do $B insmod "$module"; done
# cache=loose: the host's files are taken not to change while the guest runs
$B mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=512000,cache=loose,access=any root /ro
$B mount -t tmpfs -o size=80% tmpfs /rw; $B mkdir /rw/upper /rw/work
$B mount -t overlay -o lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work overlay /new || {
    echo "lab: no root file system"; echo o > /proc/sysrq-trigger; $B sleep 10; }
$B mkdir -p /dev/pts /dev/shm /dev/virtio-ports
$B mount -t devpts -o ptmxmode=666 devpts /dev/pts; $B mount -t tmpfs shm /dev/shm
$B mount -t debugfs debugfs /sys/kernel/debug; $B mount -t cgroup2 cgroup2 /sys/fs/cgroup
$B mount -t bpf bpf /sys/fs/bpf
$B ln -sfn /proc/self/fd /dev/fd
# no udev in the guest: name the ports as it would, once the last of them has come
until $B grep -qs lab.qmp /sys/class/virtio-ports/*/name; do $B sleep 0.1; done
for port in /sys/class/virtio-ports/*; do
    [ -e $port/name ] && $B ln -s ../${port##*/} /dev/virtio-ports/$($B cat $port/name)
done
# nodes whose first opening loads their module; udev makes them elsewhere
$B mkdir -p /dev/net; $B mknod /dev/net/tun c 10 200
[ -e /dev/fuse ] || $B mknod /dev/fuse c 10 229
$B ip link set lo up
for place in dev sys proc; do $B mount --move /$place /new/$place; done
$B mount -t tmpfs run /new/run; $B mkdir -p /new/run/netns /new/run/lock /new/lib/modules
$B cp -r /job /new/run/lab
exec $B switch_root /new /bin/bash /run/lab/init
