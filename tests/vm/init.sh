#!/bin/sh
# First process of the virtual machine, run by busybox from the initial RAM disk. Mounts this machine's root
# directory (9p, read only) under a layer in memory, so that everything can be read, nothing can be damaged, and
# a test may write wherever it likes; then runs /job, and leaves its exit status in the one shared directory that
# is writable. tests/vm/machine.py adds: /modules (in order of loading), /repository (its path) and /job.

# A first process that ends is a panic, and so an immediate reboot (panic=-1), which qemu is told to end on.
fail() { echo "vm: cannot start: $*"; exit 1; }

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo "vm: kernel $(uname -r) is up after $(cut -d' ' -f1 /proc/uptime) s"
while read -r module; do
    insmod "$module" || fail "module $module"
done </modules

mkdir -p /host /layer /root
options=trans=virtio,version=9p2000.L,msize=262144
mount -t 9p -o "ro,cache=loose,$options" root /host || fail 'no root directory'
mount -t tmpfs -o mode=755 layer /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /root || fail 'no overlay'

for directory in proc sys dev tmp run var/tmp; do mkdir -p "/root/$directory"; done
mount --move /proc /root/proc
mount --move /sys /root/sys
mount --move /dev /root/dev
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts devpts /root/dev/pts
for directory in dev/shm tmp run var/tmp; do
    mount -t tmpfs -o mode=1777 tmpfs "/root/$directory"
done
# The host's /tmp is out of sight now. The tree under test may lie there, so show that again, writable as before.
repository=$(cat /repository)
mkdir -p "/root$repository" "/root/run/out"
if ! [ -e "/root$repository/Makefile" ]; then
    mkdir /layer/upper2 /layer/work2
    mount -t overlay -o "lowerdir=/host$repository,upperdir=/layer/upper2,workdir=/layer/work2" overlay \
        "/root$repository" || fail 'no repository'
fi
mount -t 9p -o "rw,cache=none,$options" out /root/run/out || fail 'nowhere to write the result to'

# What modprobe looks into: the unpacked kernel's modules, whatever this machine's own /lib/modules holds.
release=$(uname -r)
mkdir -p "/root/lib/modules/$release"
mount --bind "/root$repository/build/kernel/root/lib/modules/$release" "/root/lib/modules/$release" ||
    fail 'no modules'
cp /job /root/run/job
cat >/root/run/main <<'MAIN'
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
ip link set lo up
# What udev would add to a bare /dev.
ln -s /proc/self/fd /dev/fd
for number in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${number%:*}" "/dev/${number#*:}"; done
mkdir -p /dev/net
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
cd "$1" || exit
echo "vm: files are there after $(cut -d' ' -f1 /proc/uptime) s"
# setsid and cat: neither for input nor for output does a test take the console for its terminal.
{
    setsid --wait sh /run/job </dev/null 2>&1
    echo $? >/run/out/exit
} | cat
sync
echo b >/proc/sysrq-trigger
sleep 60
MAIN
# switch_root, not chroot: the kernel runs /sbin/modprobe in the root of the first process.
exec switch_root /root /bin/sh /run/main "$repository"
