#!/bin/sh
# Fetches Debian's kernel and unpacks the parts a virtual machine of ours needs. Nothing is installed, so the
# machine's own boot loader and /lib/modules stay as they are.
#
# Usage: kernel.sh DIRECTORY     yields DIRECTORY/vmlinuz, DIRECTORY/release and DIRECTORY/root/lib/modules/RELEASE
set -eu

export PATH="$PATH:/usr/sbin:/sbin"
directory=$1
fail() { echo "setup: kernel for the VM: $*" >&2; exit 1; }

[ "$(uname -m)" = x86_64 ] || fail "only x86-64 machines: the VM runs this machine's programs on an amd64 kernel"
command -v apt-get >/dev/null 2>&1 || fail "no apt-get here, and the kernel comes from Debian's archive"

rm -rf "$directory"
mkdir -p "$directory/root"
cd "$directory"

# linux-image-amd64 is an empty package that depends on the current kernel. The download is of one package by name:
# no dependency is resolved, so nothing else is touched. -o APT::Sandbox::User=root: _apt may not write here.
image() {
    apt-cache depends --no-recommends --no-suggests linux-image-amd64 2>/dev/null |
        sed -n 's/^ *Depends: \(linux-image-[0-9].*-amd64\)$/\1/p' | head -n 1
}
download() {
    package=$(image)
    [ -n "$package" ] && apt-get -q -o Acquire::Retries=3 -o APT::Sandbox::User=root download "$package" </dev/null
}
download || {
    echo "setup: kernel for the VM: refreshing the package index and trying again" >&2
    apt-get -q -o DPkg::Lock::Timeout=300 update </dev/null || true
    download || fail "cannot download the image that linux-image-amd64 names (${package:-none: is this Debian?})"
}

# What has no place in the machine we emulate is three quarters of the package.
drivers='./lib/modules/*/kernel/drivers'
unpack() {
    dpkg-deb --fsys-tarfile linux-image-*.deb | tar -x -C root --wildcards "$@" \
        --exclude='*/kernel/sound' --exclude='*/net/ethernet' --exclude='*/net/wireless'
}
unpack './boot/vmlinuz-*' './lib/modules/*/modules.*' './lib/modules/*/kernel/[!ds]*' \
    "$drivers/net" "$drivers/virtio" "$drivers/char/hw_random" 2>tar.log ||
    unpack './boot/vmlinuz-*' './usr/lib/modules/*' 2>>tar.log || fail "cannot unpack: $(cat tar.log)"
rm -f ./*.deb tar.log
# Debian 13 and later have it under /usr/lib.
[ -d root/lib/modules ] || { mkdir -p root/lib && mv root/usr/lib/modules root/lib/; }
release=$(ls root/lib/modules)
mv "root/boot/vmlinuz-$release" vmlinuz
depmod -b root "$release"
echo "$release" >release
echo "setup: kernel for the VM: $release, $(du -sm . | cut -f1) MB"
