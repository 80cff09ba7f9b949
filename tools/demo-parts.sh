# demo-parts.sh: what the demonstrations share. Sourced, with PANTALA set: makes a temporary folder, $work, and takes away
# at the end, after an error, and after Ctrl-C whatever was started or mounted in it. Nodes keep their state in
# $work/NODE and are mounted at $work/mnt-NODE.
work=$(mktemp -d "${TMPDIR:-/tmp}/pantala-demo.XXXXXX")
pids=() readers=() attended='' # what this script started itself: by setsid, so that Ctrl-C reaches this script alone
nodes=(a b)

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
show() { printf '  %s%s%s\n' "$dim" "$*" "$plain"; }
fail() { printf '\ndemo: %s\n' "$*" >&2; exit 1; }

gone() { # PID SECONDS: waits until a process has ended
	local i
	for ((i = 0; i < $2 * 10; i++)); do
		kill -0 "$1" 2>/dev/null || return 0
		sleep 0.1
	done
	return 1
}

end() { # PID: asks, then insists
	kill "$1" 2>/dev/null || return 0
	gone "$1" 5 || kill -KILL "$1" 2>/dev/null || true
}

attend() { # SECONDS COMMAND…: runs it for no longer than that; unlike a command in the foreground it does not hold up Ctrl-C
	local status=0
	setsid timeout -k 5 "$@" &
	attended=$!
	wait "$attended" || status=$?
	attended=''
	return "$status"
}

strays() { # processes that name something in our folder: daemons, and holders of their mounts, whose start was interrupted
	local p arg
	for p in /proc/[0-9]*; do
		while IFS= read -r -d '' arg; do
			case "$arg" in *"$work"/*) echo "${p#/proc/}"; break ;; esac
		done 2>/dev/null <"$p/cmdline"
	done 2>/dev/null
}

end_node() { # unmounts, and stops the daemon that mount has started
	local pid
	timeout -k 2 8 "$PANTALA" umount --state "$work/$1" --force "$work/mnt-$1" >/dev/null 2>&1
	pid=$(cat "$work/$1/daemon.pid" 2>/dev/null)
	[ -z "$pid" ] || end "$pid"
}

cleanup() {
	local status=$? n pid
	trap '' INT TERM HUP
	trap - EXIT
	set +e
	printf '\n%sCleaning up …%s' "$dim" "$plain"
	for pid in $attended "${readers[@]}"; do end "$pid"; done # a mount that is being read from is busy
	local ends=()
	for n in "${nodes[@]}"; do
		[ -d "$work/$n" ] || continue
		end_node "$n" &
		ends+=($!)
	done
	[ "${#ends[@]}" = 0 ] || wait "${ends[@]}" 2>/dev/null
	# A node that died leaves a dead mount behind: detach whatever is still mounted below our folder.
	while read -r _ _ _ _ at _; do
		case "$at" in "$work"/*) umount -l "$at" 2>/dev/null || fusermount3 -uz "$at" 2>/dev/null ;; esac
	done </proc/self/mountinfo
	for pid in "${pids[@]}"; do end "$pid"; done 2>/dev/null
	for pid in $(strays); do end "$pid"; done
	if [ "$status" != 0 ] && [ "$status" != 130 ]; then
		printf '\n'
		for n in "$work"/*.log "$work"/*/daemon.log; do
			[ -s "$n" ] && [ "${n##*/}" != access.log ] && { echo "--- end of ${n#"$work"/}:"; tail -n 15 "$n"; } >&2
		done
	fi
	if ! rm -rf --one-file-system "$work"; then
		printf '\ndemo: something of %s could not be removed\n' "$work" >&2
		exit $((status ? status : 1))
	fi
	printf '%s done: nothing is mounted, nothing runs, %s is gone.%s\n' "$dim" "$work" "$plain"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

free_port() { # a port of loopback on which nobody listens now
	local p
	for _ in {1..50}; do
		p=$((20000 + RANDOM % 10000))
		(exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null || { echo "$p"; return; }
	done
	fail "no free port found"
}

within() { # SECONDS WHAT COMMAND…: waits until the command succeeds
	local i limit=$1 what=$2
	shift 2
	for ((i = 0; i < limit * 20; i++)); do
		if "$@" 2>/dev/null; then return; fi
		sleep 0.05
	done
	fail "$what: not within $limit s"
}

url_of() { grep -oE 'http://127\.0\.0\.1:[0-9]+[^ "]*' "$1" | head -n 1; } # the first URL in a log
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
mib() { awk -v n="$1" 'BEGIN { printf "%.1f MiB", n / 1048576 }'; }
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.3f", b - a }'; }
