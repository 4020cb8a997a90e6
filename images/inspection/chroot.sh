#!/bin/sh
# chroot.sh FILE.sqsh FOLDER BROUGHT COMMAND...: runs COMMAND in FILE.sqsh as uid 12345, with BROUGHT at /tmp/slipway.
# Only /tmp can be written to. To be run in namespaces of its own, with which every mount ends.
# Exit codes: COMMAND's; 125 where the file cannot be mounted.
file=$1 root=$2 brought=$3
shift 3
mount -t squashfs -o loop,ro,nosuid,nodev "$file" "$root" &&
    mount -t proc -o ro,nosuid,nodev,noexec proc "$root/proc" &&
    mount -t tmpfs -o nosuid,noexec,mode=755,size=64k tmpfs "$root/dev" &&
    mknod -m 666 "$root/dev/null" c 1 3 &&
    mknod -m 444 "$root/dev/urandom" c 1 9 &&
    mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs "$root/tmp" &&
    mkdir "$root/tmp/slipway" &&
    mount --bind "$brought" "$root/tmp/slipway" &&
    mount -o remount,bind,ro "$root/tmp/slipway" || exit 125
exec setpriv --no-new-privs chroot --userspec=12345:12345 --groups= "$root" "$@"
