#!/usr/bin/env bash
# prereq.sh NEED…: says which of the named prerequisites are missing and what to do about each. Installs nothing.
#   fuse         /dev/fuse, and root or fusermount3    nginx       the origin of the tests
#   fusermount   fusermount3, also for root            libtorrent  a foreign BitTorrent client
#   race         a C compiler, for go test -race
#   clients      aria2, Transmission, qBittorrent, opentracker
#   registry     docker-registry and skopeo: images
#   containers   containerd, runc and a static busybox: images that run
#   oracles      umoci and fsck.erofs: others' opinion of a tree
#   erofs        EROFS over files, and loop devices
#   netns        network namespaces with bridges and shaped links
#   tars         bsdtar, whose archives are read beside GNU's
#   redis        redis-server or valkey-server: state that trackers share
#   zstd         zstd and pzstd: other encoders of its streams
#   gzips        pigz and igzip: other encoders of gzip files
# Exit status 1 when something is missing.
set -u
missing=0

lack() { # what, what to do
	[ "$missing" = 0 ] && echo "Missing on this machine:" >&2
	missing=1
	printf '  %-12s %s\n' "$1" "$2" >&2
}

for need in "$@"; do
	case "$need" in
	fuse)
		[ -c /dev/fuse ] || lack /dev/fuse "modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN"
		if [ "$(id -u)" != 0 ]; then
			command -v fusermount3 >/dev/null || lack fusermount3 "apt-get install fuse3 (or run as root)"
			[ ! -c /dev/fuse ] || [ -w /dev/fuse ] || lack "/dev/fuse" "is not writable for you: run as root, or chmod 0666 /dev/fuse"
		fi
		;;
	fusermount)
		command -v fusermount3 >/dev/null || lack fusermount3 "apt-get install fuse3"
		;;
	libtorrent)
		/usr/bin/python3 -c 'import libtorrent' 2>/dev/null || lack libtorrent "apt-get install python3-libtorrent"
		;;
	nginx)
		command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || lack nginx "apt-get install nginx-light"
		;;
	tars)
		command -v bsdtar >/dev/null || lack bsdtar "apt-get install libarchive-tools"
		;;
	zstd)
		for p in zstd pzstd; do command -v "$p" >/dev/null || lack "$p" "apt-get install zstd"; done
		;;
	redis)
		command -v redis-server >/dev/null || command -v valkey-server >/dev/null || lack redis-server "apt-get install redis-server"
		;;
	gzips)
		command -v pigz >/dev/null || lack pigz "apt-get install pigz"
		command -v igzip >/dev/null || lack igzip "apt-get install isal"
		;;
	clients)
		for p in aria2c:aria2 transmission-daemon:transmission-daemon transmission-show:transmission-cli qbittorrent-nox:qbittorrent-nox opentracker:opentracker; do
			command -v "${p%:*}" >/dev/null || lack "${p%:*}" "apt-get install ${p#*:}"
		done
		;;
	registry)
		for p in docker-registry skopeo; do
			command -v "$p" >/dev/null || lack "$p" "apt-get install $p"
		done
		;;
	containers)
		for p in containerd:containerd ctr:containerd runc:runc busybox:busybox-static; do
			command -v "${p%:*}" >/dev/null || lack "${p%:*}" "apt-get install ${p#*:}"
		done
		;;
	oracles)
		for p in umoci:umoci fsck.erofs:erofs-utils; do
			command -v "${p%:*}" >/dev/null || lack "${p%:*}" "apt-get install ${p#*:}"
		done
		;;
	erofs)
		grep -qw erofs /proc/filesystems && [ "$(printf '%s\n' 6.12 "$(uname -r)" | sort -V | head -n 1)" = 6.12 ] ||
			lack EROFS "a kernel from Linux 6.12 on with CONFIG_EROFS_FS_BACKED_BY_FILE (modprobe erofs)"
		[ -e /dev/loop-control ] || lack /dev/loop-control "modprobe loop"
		;;
	netns)
		if command -v ip >/dev/null && command -v tc >/dev/null; then
			unshare --net sh -c 'ip link add br0 type bridge && ip link add v0 type veth peer name v1 && tc qdisc add dev v0 root tbf rate 1mbit burst 32kb latency 50ms' >/dev/null 2>&1 ||
				lack namespaces "root with CAP_SYS_ADMIN and CAP_NET_ADMIN, and the modules bridge, veth and sch_tbf"
		else
			lack ip "apt-get install iproute2"
		fi
		;;
	race)
		command -v "${CC:-gcc}" >/dev/null || lack "${CC:-gcc}" "apt-get install gcc libc6-dev (the race detector needs cgo)"
		;;
	*)
		echo "prereq.sh: unknown prerequisite '$need'" >&2
		exit 2
		;;
	esac
done
exit "$missing"
