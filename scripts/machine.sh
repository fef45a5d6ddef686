# shellcheck shell=bash disable=SC2034
# A machine of its own for a cluster: network, mount, UTS and PID namespaces with no route out, so that nothing a cluster
# does touches the host or leaves it (the pods' namespaces have names on a file system of its own), and everything ends with
# its first process. Sourced by the scripts beside this
# file; needs root.

# start_machine NAME: makes the machine unless it runs, and sets $state (its folder) and $holder (its first process).
start_machine() {
  machine=$1
  state=$(realpath -m "out/$machine")
  mkdir -p "$state"
  if ! machine_runs; then
    # bash as the first process reaps what others leave behind. Loopback comes last: it says that the machine is there.
    setsid unshare --net --mount --uts --pid --fork --mount-proc --propagation private --kill-child -- \
      bash -c 'mkdir -p /run/netns; mount -t tmpfs netns /run/netns; ip link add node0 type bridge; ip address add 172.30.0.2/24 dev node0; ip link set node0 up; hostname skiff-node; ip link set lo up; while :; do sleep 3600 & wait $!; done' \
      "skiff-machine-$machine" </dev/null >/dev/null 2>&1 &
    disown
    wait_for 10 "the namespaces" find_machine
  fi
  holder=$(cat "$state/holder")
}

find_machine() {
  local pid
  pid=$(pgrep --full --oldest "^bash -c .*skiff-machine-$machine\$") && echo "$pid" >"$state/holder" &&
    nsenter --target "$pid" --net --pid --mount -- ip link show lo | grep -q UP
}

machine_runs() {
  [ -s "$state/holder" ] && grep -qa "skiff-machine-$machine" "/proc/$(cat "$state/holder")/cmdline" 2>/dev/null
}

# inside COMMAND…: runs a command in the machine.
inside() {
  nsenter --target "$holder" --net --mount --uts --pid --wd="$PWD" -- "$@"
}

# end_machine NAME: the end of every process of the machine; its links, rules and mounts go with the namespaces.
end_machine() {
  machine=$1
  state=$(realpath -m "out/$machine")
  local pid
  # By its name and not by its folder, which somebody may have removed.
  if pid=$(pgrep --full --oldest "^bash -c .*skiff-machine-$machine\$"); then
    kill -9 "$pid"
    wait_for 20 "the machine's processes to end" gone "$pid"
  fi
  find /sys/fs/cgroup -depth -type d -path "*/skiff-$machine*" -exec rmdir {} + 2>/dev/null || true
  rm -rf "$state"
}

gone() {
  ! [ -e "/proc/$1" ]
}

# wait_for SECONDS WHAT COMMAND…: until the command succeeds; says what did not happen in time.
wait_for() {
  local seconds=$1 what=$2 end=$((SECONDS + $1))
  shift 2
  until "$@" >/dev/null 2>&1; do
    if [ $SECONDS -ge $end ]; then
      echo "gave up after $seconds s waiting for $what" >&2
      return 1
    fi
    sleep 0.05
  done
}
