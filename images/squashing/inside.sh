#!/bin/sh
# inside.sh ROOT [FILE PLACE]... -- COMMAND...: runs COMMAND with ROOT for its root; each FILE is seen at PLACE in there.
# To be run in namespaces of its own, with which every mount ends. What COMMAND may do is what a build's RUN may.
# Exit codes: COMMAND's; 125 where something cannot be mounted.
root=$1
shift
umask 022
mount -t proc -o ro,nosuid,nodev,noexec proc "$root/proc" &&
    mount -t tmpfs -o nosuid,noexec,mode=755 tmpfs "$root/dev" &&
    mkdir -m 1777 "$root/dev/shm" || exit 125
for name in null zero full random urandom; do
    : >"$root/dev/$name" && mount --bind "/dev/$name" "$root/dev/$name" || exit 125
done
while [ "$1" != -- ]; do
    mount --bind "$1" "$root$2" && mount -o remount,bind,ro "$root$2" || exit 125
    shift 2
done
shift
rights=+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+sys_chroot
exec setpriv --bounding-set "-all,$rights" --inh-caps -all chroot "$root" "$@"
