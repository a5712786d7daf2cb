#!/usr/bin/env bash
# The tests of `make test` under what has broken them before. Needs root. The first argument is the Python to run them.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath --no-symlinks "$1")
scratch=$(mktemp --directory)
busy=()
trap 'kill "${busy[@]}" 2>/dev/null || true; rm -rf "$scratch"' EXIT

fast() { "$python" -m pytest --numprocesses=auto --dist=worksteal -q -m 'not slow and not e2e'; }
export -f fast
export python

heading() { printf '\n==> %s\n' "$*"; }

heading '40 seconds after boot, without a network, with a read-only home'
uptime=$(cut --delimiter=. --fields=1 /proc/uptime)
HOME=/proc unshare --time --monotonic "$((40 - uptime))" --net --fork -- bash -c 'ip link set lo up; fast'

heading 'In two clones at once, one in a folder with blanks and parentheses'
clones=("$scratch/one" "$scratch/the other (clone)")
for clone in "${clones[@]}"; do
    git clone --quiet . "$clone"
    make --directory="$clone" development
done
running=()
for clone in "${clones[@]}"; do
    make --directory="$clone" test &
    running+=($!)
done
failed=
for each in "${running[@]}"; do
    wait "$each" || failed=1
done
[[ -z $failed ]]

heading 'Five times, while eight processes want the processors'
for _ in {1..8}; do
    while :; do :; done &
    busy+=($!)
done
for _ in {1..5}; do
    fast
done
