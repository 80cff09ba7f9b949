#!/usr/bin/env bash
# demo-image.sh: a registry with one ordinary image, a tracker and two nodes on loopback. Node a is the first that ever
# wants the image; node b comes after it. A program of the image is run on both, and the registry's access log shows
# what each of them cost. Then the registry is stopped, and node b starts the image again. Everything runs in a temporary
# folder and is taken away at the end, after an error, and after Ctrl-C. Needs root: it mounts EROFS.
#
#   IMAGE_MIB  size of the image, unpacked, 256     RATE_MIB  limit of one answer of the registry in MiB/s, 24; 0: none
set -euo pipefail
export LC_ALL=C.UTF-8
cd "$(dirname "$0")/.."
IMAGE_MIB=${IMAGE_MIB:-256}
RATE_MIB=${RATE_MIB:-24}
case "$IMAGE_MIB$RATE_MIB" in *[!0-9]* | '') echo "demo-image: IMAGE_MIB and RATE_MIB are whole numbers" >&2; exit 2 ;; esac
[ "$IMAGE_MIB" -ge 1 ] || { echo "demo-image: IMAGE_MIB is 1 or more" >&2; exit 2; }
PANTALA=${PANTALA:-$PWD/bin/pantala}
REGISTRY=${REGISTRY:-$PWD/bin/demo-registry}

[ "$(id -u)" = 0 ] || { echo "demo-image: mounting an image needs root: sudo make demo-image" >&2; exit 1; }
bash tools/prereq.sh fuse || exit 1
. tools/demo-parts.sh

sent() { # bytes that the registry has sent so far; it logs a request when it ends
	local last=-1 now=0
	for _ in {1..20}; do
		now=$(awk '{ n += $2 } END { print n + 0 }' "$work/access.log")
		[ "$now" != "$last" ] || break
		last=$now
		sleep 0.2
	done
	echo "$now"
}

counts() { # NODE: size, present, from peers, from the registry: bytes of its one mount
	timeout -k 2 5 "$PANTALA" status --state "$work/$1" -o json | tr -d ' ",' | awk -F: '
		/^(size|present|from_peers|from_origin):/ && !($1 in v) { v[$1] = $2 }
		END { print v["size"] + 0, v["present"] + 0, v["from_peers"] + 0, v["from_origin"] + 0 }'
}

mount_on() { # NODE
	[ -d "$work/mnt-$1" ] || mkdir "$work/mnt-$1"
	attend 120 "$PANTALA" mount --state "$work/$1" --listen 127.0.0.1:0 --tracker "$tracker" --fill never "$image" "$work/mnt-$1" >/dev/null ||
		fail "node $1 cannot mount the image"
}

run_on() { # NODE COMMAND…: in the root file system of the image
	local n=$1
	shift
	attend 60 chroot "$work/mnt-$n" "$@" >"$work/out-$n" || fail "$1 of the image does not run on node $n"
	sed 's/^/  in the image: /' "$work/out-$n"
}

say "A registry with an image of $IMAGE_MIB MiB, three gzip layers"
setsid "$REGISTRY" -program "$PANTALA" -mib "$IMAGE_MIB" -rate $((RATE_MIB * 1048576)) -log "$work/access.log" >"$work/registry.log" 2>&1 &
registry=$!
pids+=("$registry")
within 120 "the registry listens" grep -q http "$work/registry.log"
url=$(url_of "$work/registry.log")
image=oci://${url#http://}/demo:latest
show "$image"
[ "$RATE_MIB" = 0 ] || show "limited to $RATE_MIB MiB/s an answer, so that there is something to see"
setsid "$PANTALA" tracker --listen 127.0.0.1:0 >"$work/tracker.log" 2>&1 &
pids+=($!)
within 10 "the tracker prints its URL" grep -q http://127 "$work/tracker.log"
tracker=$(url_of "$work/tracker.log")
show "pantala tracker --listen 127.0.0.1:0        # $tracker"

declare -A first cost sum
for n in "${nodes[@]}"; do
	case $n in
	a) say "Node a: nobody has ever read this image, so it reads all of it, once, while it arrives" ;;
	b) say "Node b: the image has been read by a neighbour before" ;;
	esac
	before=$(sent) # one of these a command: in the second of two, bash 5.2 misreads a trap that interrupts it
	start=$(now)
	mount_on "$n"
	show "pantala mount --state …/$n --tracker … $image …/mnt-$n        # $(since "$start") s"
	show "chroot …/mnt-$n /bin/pantala version"
	run_on "$n" /bin/pantala version
	first[$n]=$(since "$start")
	after=$(sent)
	cost[$n]=$((after - before))
	printf '  first output after %s s\n' "${first[$n]}"
done

say "Where the bytes came from"
printf '  %-7s  %13s  %11s  %17s  %16s\n' '' 'first output' 'of it here' 'from the registry' 'from a neighbour'
for n in "${nodes[@]}"; do
	read -r size here peers _ < <(counts "$n")
	[ "$size" -gt 0 ] || fail "node $n does not say what it has of the image"
	printf '  node %-2s  %11s s  %9d %%  %17s  %16s\n' "$n" "${first[$n]}" $((100 * here / size)) "$(mib "${cost[$n]}")" "$(mib "$peers")"
done
printf '  The image is %s, compressed, and was sent %s times by the registry.\n' "$(mib "$size")" "$(awk -v a="$(sent)" -v b="$size" 'BEGIN { printf "%.2f", a / b }')"

say "Two roots, one image"
for n in "${nodes[@]}"; do
	attend 60 ls -l "$work/mnt-$n" >"$work/out-$n" || fail "the root of the image cannot be read on node $n"
	tail -n +2 "$work/out-$n" | sed "s/^/  $n: /"
	[ ! -e "$work/mnt-$n/data/secret" ] || fail "the third layer has not taken data/secret away on node $n"
done

say "The registry is stopped. Node b starts the image again, and reads what it has never read, from its neighbour"
end "$registry"
timeout -k 2 20 "$PANTALA" umount --state "$work/b" "$work/mnt-b" || fail "node b cannot unmount"
start=$(now)
mount_on b
show "pantala umount …/mnt-b; pantala mount … $image …/mnt-b        # $(since "$start") s"
run_on b /bin/pantala version
printf '  first output after %s s\n' "$(since "$start")"
for n in "${nodes[@]}"; do
	attend 120 find "$work/mnt-$n/data/00" -type f -exec sha256sum {} + >"$work/out-$n" || fail "node $n cannot read data/00"
	sum[$n]=$(sed "s|$work/mnt-$n||" "$work/out-$n" | sort | sha256sum | cut -d ' ' -f 1)
	printf '  %s  data/00 on node %s\n' "${sum[$n]}" "$n"
done
[ "${sum[a]}" = "${sum[b]}" ] || fail "the nodes read other bytes"
read -r _ _ peers registry < <(counts b)
printf '  since it was mounted again: %s from its neighbour, %s from the registry\n' "$(mib "$peers")" "$(mib "$registry")"
