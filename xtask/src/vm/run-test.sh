#!/bin/sh
# run-test PACKAGE TEST: runs one test and reports it, whole, on the second serial line. `machine` is no package but what
# a script does with the whole machine. A test that was not run (its binary does not know it after all) has not passed.
output=$(mktemp)
started=$(cut -d. -f1 /proc/uptime)
if [ "$1" = machine ]; then
  timeout -k 5 "$machine_bound" "/machine/$2" >"$output" 2>&1
  code=$?
else
  timeout -k 5 "$bound" "/tests/$1" --exact "$2" >"$output" 2>&1
  code=$?
  grep -q '^test result: ok. 1 passed' "$output" || [ $code -ne 0 ] || code=unknown
fi
seconds=$(($(cut -d. -f1 /proc/uptime) - started))
exec 9>/run/lock/report
flock 9
if [ "$code" = 0 ]; then
  echo "pass $1 $2 $seconds"
else
  tail -n 300 "$output" | sed 's/^/| /'
  echo "fail $1 $2 $code"
fi >"$report"
rm "$output"
