#!/usr/bin/env bash
# tidy.sh COMMAND…: runs a command that has a folder for temporary files of its own, and fails when it leaves anything
# behind: files there, mounts, processes, network namespaces. What is left is named, and removed.
set -u
dir=$(mktemp -d "${TMPDIR:-/tmp}/pt.XXXXXX") || exit 1
chmod 1777 "$dir" # some tests run as somebody else

processes() { # those that were started with this folder
	grep -zlxF "TMPDIR=$dir" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3
}
mounts() { awk -v dir="$dir/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo; }
namespaces() { # those of tests have the id of their process in their name
	local f pid
	for f in /run/netns/pt[0-9]*; do
		pid=$(basename "$f" | tr -cd 0-9)
		[ ! -e "$f" ] || [ -d "/proc/$pid" ] || basename "$f"
	done
}

TMPDIR=$dir "$@"
status=$?

for _ in $(seq 50); do # whoever was told to end may need a moment on a busy machine
	[ -z "$(processes)" ] && break
	sleep 0.2
done
left=0
complain() {
	left=1
	echo "left behind: $*" >&2
}
for pid in $(processes); do
	complain "process $pid: $(tr '\0' ' ' <"/proc/$pid/cmdline")"
	kill -9 "$pid"
done
for m in $(mounts); do
	complain "mount $m"
	umount -l "$m"
done
for n in $(namespaces); do
	complain "network namespace $n"
	ip netns del "$n"
done
for f in $(ls -A "$dir"); do
	complain "file $dir/$f"
done
rm -rf --one-file-system "$dir"
[ "$status" = 0 ] || exit "$status"
exit "$left"
