#!/usr/bin/env bash
# demo.sh: one origin, one tracker and two nodes on loopback. Both nodes mount the same file and read all of it at the
# same moment; the origin's access log then shows how often it was downloaded. Everything runs in a temporary folder and is taken
# away at the end, after an error, and after Ctrl-C.
#
#   SIZE_MIB  size of the file, 256         RATE_MIB  limit of one connection to the origin in MiB/s, 24; 0: none
set -euo pipefail
export LC_ALL=C.UTF-8
cd "$(dirname "$0")/.."
SIZE_MIB=${SIZE_MIB:-256}
RATE_MIB=${RATE_MIB:-24}
case "$SIZE_MIB$RATE_MIB" in *[!0-9]* | '') echo "demo: SIZE_MIB and RATE_MIB are whole numbers" >&2; exit 2 ;; esac
PANTALA=${PANTALA:-$PWD/bin/pantala}
ORIGIN=${ORIGIN:-$PWD/bin/demo-origin}

bash tools/prereq.sh fuse || exit 1
. tools/demo-parts.sh

counts() { # NODE: present, from peers, from the origin: bytes of its one mount, by `pantala status -o json`
	timeout -k 2 5 "$PANTALA" status --state "$work/$1" -o json 2>/dev/null | tr -d ' ",' | awk -F: '
		/^(present|from_peers|from_origin):/ && !($1 in v) { v[$1] = $2 }
		END { print v["present"] + 0, v["from_peers"] + 0, v["from_origin"] + 0 }'
}

progress() { # one line for both nodes
	local n text='' here peers origin
	for n in "${nodes[@]}"; do
		read -r here peers origin < <(counts "$n") || here=0 peers=0 origin=0
		text+=$(printf '  node %s %3d %% (%s peers, %s origin)' "$n" $((100 * here / size)) "$(mib "$peers")" "$(mib "$origin")")
	done
	echo "$text"
}

say "A file of $SIZE_MIB MiB of random bytes behind an HTTP server"
mkdir "$work/www"
head -c $((SIZE_MIB * 1048576)) /dev/urandom >"$work/www/model.bin"
size=$((SIZE_MIB * 1048576))
nginx=$(command -v nginx || { [ -x /usr/sbin/nginx ] && echo /usr/sbin/nginx; } || true)
if [ -n "$nginx" ]; then
	port=$(free_port)
	mkdir "$work/tmp"
	cat >"$work/nginx.conf" <<-CONF
		daemon off;
		pid $work/nginx.pid;
		error_log $work/nginx.log warn;
		$([ "$(id -u)" != 0 ] || echo 'user root;')
		events { }
		http {
			log_format demo '\$status \$body_bytes_sent \$request_method "\$http_range" \$uri';
			access_log $work/access.log demo;
			client_body_temp_path $work/tmp; proxy_temp_path $work/tmp; fastcgi_temp_path $work/tmp;
			uwsgi_temp_path $work/tmp; scgi_temp_path $work/tmp;
			sendfile on;
			keepalive_requests 100000;
			server { listen 127.0.0.1:$port; root $work/www; limit_rate ${RATE_MIB}m; }
		}
	CONF
	setsid "$nginx" -p "$work" -c "$work/nginx.conf" -e "$work/nginx.log" >>"$work/nginx.log" 2>&1 &
	pids+=($!)
	within 10 "nginx listens" listens "$port"
	url=http://127.0.0.1:$port/model.bin
	show "nginx, $url"
else
	setsid "$ORIGIN" -root "$work/www" -log "$work/access.log" -rate $((RATE_MIB * 1048576)) >"$work/origin.log" 2>&1 &
	pids+=($!)
	within 10 "the origin listens" grep -q http "$work/origin.log"
	url=$(url_of "$work/origin.log")/model.bin
	show "tools/demo-origin, $url (nginx is not installed)"
fi
[ "$RATE_MIB" = 0 ] || show "limited to $RATE_MIB MiB/s a connection, so that there is something to watch"

say "A tracker, and the file mounted on two nodes"
setsid "$PANTALA" tracker --listen 127.0.0.1:0 >"$work/tracker.log" 2>&1 &
pids+=($!)
within 10 "the tracker prints its URL" grep -q http://127 "$work/tracker.log"
tracker=$(url_of "$work/tracker.log")
show "pantala tracker --listen 127.0.0.1:0        # $tracker"
for n in "${nodes[@]}"; do
	mkdir "$work/mnt-$n"
	start=$(now)
	attend 60 "$PANTALA" mount --state "$work/$n" --listen 127.0.0.1:0 --tracker "$tracker" --fill never "$url" "$work/mnt-$n" >/dev/null ||
		fail "node $n cannot mount"
	show "pantala mount --state …/$n --tracker … $url …/mnt-$n        # $(since "$start") s"
done
timeout -k 5 30 ls -l "$work/mnt-a" | tail -n +2 | sed 's/^/  /'

say "Both read everything at the same moment"
start=$(now)
for n in "${nodes[@]}"; do
	setsid timeout -k 5 120 sha256sum "$work/mnt-$n/model.bin" >"$work/sum-$n" 2>"$work/sum-$n.log" &
	pids+=($!)
	readers+=($!)
done
while kill -0 "${readers[0]}" 2>/dev/null || kill -0 "${readers[1]}" 2>/dev/null; do
	progress
	sleep 0.5
done
for r in "${readers[@]}"; do wait "$r" || fail "a reader failed: $(cat "$work"/sum-*.log)"; done
progress
show "done in $(since "$start") s"

say "Where the bytes came from"
for n in "${nodes[@]}"; do timeout -k 2 10 "$PANTALA" status --state "$work/$n" | sed 's/^/  /'; done
# The origin logs a request when it ends: all have, as soon as the sum stands still.
sum() { awk '{ n += $2 } END { print n + 0 }' "$work/access.log"; }
sent=-1
for _ in {1..20}; do
	last=$sent sent=$(sum)
	[ "$sent" != "$last" ] || break
	sleep 0.2
done
printf '  the origin sent %s for a file of %s on two nodes: %s times the file\n' \
	"$(mib "$sent")" "$(mib "$size")" "$(awk -v a="$sent" -v b="$size" 'BEGIN { printf "%.2f", a / b }')"

say "The same bytes everywhere"
want=$(sha256sum "$work/www/model.bin" | cut -d ' ' -f 1)
printf '  %s  origin\n' "$want"
for n in "${nodes[@]}"; do
	got=$(cut -d ' ' -f 1 "$work/sum-$n")
	printf '  %s  node %s\n' "$got" "$n"
	[ "$got" = "$want" ] || fail "node $n read other bytes"
done

say "Now that all is here: read again, beside the plain file"
speed() { # FILE: the best of three
	local i
	for i in 1 2 3; do timeout -k 5 60 dd if="$1" of=/dev/null bs=1M 2>&1 | tail -n 1 | sed -E 's/^([0-9]+) bytes.*copied, ([0-9.e-]+) s.*/\1 \2/'; done |
		awk '$2 > 0 { r = $1 / $2 / 1e9; if (r > best) best = r } END { printf "%.2f GB/s", best }'
}
printf '  mounted file %s\n' "$(speed "$work/mnt-a/model.bin")"
printf '  plain file   %s\n' "$(speed "$work/www/model.bin")"
