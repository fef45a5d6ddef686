#!/usr/bin/busybox sh
# The first process of the virtual machine: prepares it as a node would be, runs every test in a process of its own and
# reports on the second serial line, a line a fact: `pass PACKAGE TEST SECONDS`, `fail PACKAGE TEST CODE` after the
# output (lines that begin with `| `), and `done COUNT` at the end. The first serial line is the kernel's.
set -eu
mount() { /usr/bin/busybox mount "$@"; }
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
# A root with a parent: what the kernel unpacked has none, and container runtimes cannot leave such a root.
mount --rbind / /mnt
cd /mnt
mount --move . /
exec /usr/bin/busybox chroot . /usr/bin/busybox sh -c '
set -eu
export PATH=/usr/sbin:/usr/bin:/applets HOME=/root SKIFF_REQUIRE_CONTAINERD=1 SKIFF_REQUIRE_IPVS=1 report=/dev/ttyS1
/usr/bin/busybox mkdir -p /applets
/usr/bin/busybox --install -s /applets
for folder in /tmp /run; do mount -t tmpfs -o mode=1777 tmpfs $folder; done
mkdir -p /dev/pts /dev/shm /run/lock
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
hostname vm
stty -F $report raw -echo
. /options
export bound machine_bound
for binary in /tests/*; do
  [ -x "$binary" ] || continue
  package=${binary##*/}
  $binary --list --format terse --ignored >/run/ignored
  $binary --list --format terse $skipped $filters >/run/all
  # A line that no test has, since an empty list of patterns would match all.
  echo "#" >>/run/ignored
  grep -vxFf /run/ignored /run/all | sed -n "s/: test\$//p" | sed "s/^/$package /"
done >/run/tests
ls /machine | sed "s/^/machine /" >/run/machine
xargs -r -n 2 -P $jobs /run-test </run/tests || true
# Each of these has the machine to itself.
xargs -r -n 2 /run-test </run/machine || true
echo "done $(cat /run/tests /run/machine | wc -l)" >$report
reboot -f
'
