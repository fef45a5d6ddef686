#!/bin/sh
# One node of `skiff server` on control groups of version 2, with containerd and runc: a pod's limits reach the kernel,
# its container is started again after SIGKILL, memory has an end, containers outlive the node's process, and groups go
# with their pods. Emulation is slow: what takes seconds elsewhere may take minutes here.
set -eu
data=/data
export KUBECONFIG=$data/server/cred/admin.kubeconfig
kubectl='kubectl --request-timeout=120s'

diagnose() {
  code=$?
  [ $code -ne 0 ] || exit 0
  $kubectl get pods -A -o wide
  $kubectl get events -A
  for log in /run/server.log $data/agent/agent.log $data/agent/containerd/containerd.log; do
    echo "$log:"
    tail -n 40 $log
  done
}
trap diagnose EXIT

# until SECONDS WHAT COMMAND...
until_true() {
  seconds=$1 what=$2
  end=$(($(cut -d. -f1 /proc/uptime) + seconds))
  shift 2
  until "$@"; do
    if [ "$(cut -d. -f1 /proc/uptime)" -ge $end ]; then
      echo "not within $seconds s: $what"
      return 1
    fi
    sleep 0.5
  done
}
step() { echo "[$(cut -d. -f1 /proc/uptime)] $*"; }
is() { # is FILE VALUE
  found=$(cat "$1")
  [ "$found" = "$2" ] || { echo "$1 is $found, not $2"; return 1; }
}
status() { $kubectl get pod "$1" -o jsonpath="{.status.containerStatuses[0].$2}"; }
container_process() { cat "$(container_group)/cgroup.procs" | head -n 1; }
container_group() { echo "$group/$(status limited containerID | sed 's,containerd://,,')"; }
limits() { # what the kernel knows of the pod and of its container
  is $group/memory.max 67108864
  is $group/cpu.max '50000 100000'
  is $group/cpu.weight 10
  is "$(container_group)/memory.max" 67108864
  is "$(container_group)/memory.oom.group" 1
  is "$(container_group)/cpu.max" '50000 100000'
  is "$(container_group)/cpu.weight" 10
}
ready() { $kubectl wait --for=condition=Ready "$@" --timeout=240s; }
answers() { $kubectl get --raw /readyz >/dev/null 2>&1; }

mkdir -p $data
mount -t tmpfs -o size=75% tmpfs $data
mkdir -p $data/agent/images
mv /images/* $data/agent/images/
ip link add node0 type bridge
ip address add 172.30.0.2/24 dev node0
ip link set node0 up

step 'the server starts'
setsid skiff server --data-dir $data --node-ip 172.30.0.2 --node-name vm >/run/server.log 2>&1 </dev/null &
until_true 240 'the API server is ready' answers
step 'the node becomes ready'
$kubectl wait --for=create node/vm --timeout=240s
ready node/vm

step 'a pod with limits runs'
$kubectl apply --validate=false -f - <<'YAML'
apiVersion: v1
kind: Pod
metadata: {name: limited}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: skiff.local/busybox:1.35
    command: [sleep, "100000"]
    resources:
      requests: {cpu: 250m, memory: 32Mi}
      limits: {cpu: 500m, memory: 64Mi}
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: skiff.local/busybox:1.35
    command: [busybox, tail, /dev/zero]
    resources: {limits: {memory: 16Mi}}
YAML
ready pod/limited
$kubectl get pod limited
uid=$($kubectl get pod limited -o jsonpath='{.metadata.uid}')
group=/sys/fs/cgroup/kubepods/burstable/pod$uid
limits

step 'the kernel ends what takes more memory than its limit'
$kubectl wait --for=jsonpath='{.status.phase}'=Failed pod/greedy --timeout=240s
reason=$(status greedy state.terminated.reason)
[ "$reason" = OOMKilled ] || { echo "greedy ended because of $reason"; exit 1; }

step 'a killed container starts again, within the same limits'
old=$(status limited containerID)
kill -9 "$(container_process)"
$kubectl wait --for=jsonpath='{.status.containerStatuses[0].restartCount}'=1 pod/limited --timeout=240s
ready pod/limited
[ "$(status limited containerID)" != "$old" ] || { echo "the container is still $old"; exit 1; }
limits

step 'a container outlives the process of its node'
process=$(container_process)
node=$(pgrep -o -f 'skiff agent')
kill -9 "$node"
until_true 60 'the node process has ended' sh -c "! kill -0 $node 2>/dev/null"
until_true 240 'the node process is started again' pgrep -f 'skiff agent'
$kubectl delete pod greedy --wait --timeout=240s
[ "$(container_process)" = "$process" ] || { echo "process $process is now $(container_process)"; exit 1; }
[ "$(status limited restartCount)" = 1 ] || { echo 'it was started again'; exit 1; }

step 'the group goes with its pod'
$kubectl delete pod limited --wait --timeout=240s
until_true 240 "$group is gone" test ! -e $group
step 'done'
