#!/usr/bin/env bash
# demo-image.sh: a registry with one ordinary image, a tracker and two nodes on loopback. Node a is the first that ever
# wants the image; node b comes after it. A program of the image is run on both, and the registry's access log shows
# what each of them cost. Everything runs in a temporary folder and is taken away at the end, after an error, and after
# Ctrl-C. Needs root: it mounts EROFS.
#
#   IMAGE_MIB  size of the image, unpacked, 256     RATE_MIB  limit of one answer of the registry in MiB/s, 24; 0: none
set -euo pipefail
export LC_ALL=C.UTF-8
cd "$(dirname "$0")/.."
IMAGE_MIB=${IMAGE_MIB:-256}
RATE_MIB=${RATE_MIB:-24}
case "$IMAGE_MIB$RATE_MIB" in *[!0-9]* | '') echo "demo-image: IMAGE_MIB and RATE_MIB are whole numbers" >&2; exit 2 ;; esac
PANTALA=$PWD/bin/pantala
REGISTRY=$PWD/bin/demo-registry

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

say "A registry with an image of $IMAGE_MIB MiB, three gzip layers"
setsid "$REGISTRY" -program "$PANTALA" -mib "$IMAGE_MIB" -rate $((RATE_MIB * 1048576)) -log "$work/access.log" >"$work/registry.log" 2>&1 &
pids+=($!)
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

for n in "${nodes[@]}"; do
	case $n in
	a) say "Node a: nobody has ever read this image, so it reads all of it, once, while it arrives" ;;
	b) say "Node b: the image has been read by a neighbour before" ;;
	esac
	mkdir "$work/mnt-$n"
	before=$(sent) start=$(now)
	timeout -k 5 120 "$PANTALA" mount --state "$work/$n" --listen 127.0.0.1:0 --tracker "$tracker" --fill never "$image" "$work/mnt-$n" >/dev/null ||
		fail "node $n cannot mount the image"
	show "pantala mount --state …/$n --tracker … $image …/mnt-$n        # $(since "$start") s"
	timeout -k 5 60 chroot "$work/mnt-$n" /bin/pantala version | sed 's/^/  in the image: /' || fail "the program of the image does not run on node $n"
	printf '  first output after %s s; the registry sent %s\n' "$(since "$start")" "$(mib $(($(sent) - before)))"
done

say "Two roots, one image"
for n in "${nodes[@]}"; do
	timeout -k 5 60 ls -l "$work/mnt-$n" | tail -n +2 | sed "s/^/  $n: /"
	[ ! -e "$work/mnt-$n/data/secret" ] || fail "the third layer has not taken data/secret away on node $n"
done
sum() { timeout -k 5 120 find "$work/mnt-$1/data/00" -type f -exec sha256sum {} + | sed "s|$work/mnt-$1||" | sort | sha256sum | cut -d ' ' -f 1; }
a=$(sum a) b=$(sum b)
printf '  %s  data/00 on node a\n  %s  data/00 on node b\n' "$a" "$b"
[ "$a" = "$b" ] || fail "the nodes read other bytes"
for n in "${nodes[@]}"; do timeout -k 2 10 "$PANTALA" status --state "$work/$n" | sed 's/^/  /'; done
