#!/usr/bin/env bash
# bench-images.sh DIR: makes the images of the boot benchmark as an OCI layout, from Debian packages. Root; some minutes;
# about 3 GB below DIR meanwhile, 0.7 GB afterwards.
#
#   py    Debian, Python and a program that imports much of its library: 3 layers, 83 MB
#   big   py with node, Go, numpy, pandas and scipy, a layer of whiteouts, and 128 MiB that do not get shorter:
#         9 layers, 640 MB
#
#   SUITE   Debian's release, bookworm        MIRROR   where its packages come from: that of this machine
set -euo pipefail
[ $# = 1 ] || { echo "usage: bench-images.sh DIR" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "bench-images: root: it runs apt in a chroot" >&2; exit 1; }
for p in debootstrap umoci; do
	command -v "$p" >/dev/null || { echo "bench-images: apt-get install $p" >&2; exit 1; }
done
SUITE=${SUITE:-bookworm}
MIRROR=${MIRROR:-$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p; s/^deb *\(\[[^]]*\] *\)\{0,1\}\([^ ]*\) .*/\2/p' /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null | head -1 || true)} # not every machine has all of these files
[ -n "$MIRROR" ] || { echo "bench-images: this machine does not say where Debian's packages are: set MIRROR" >&2; exit 1; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
[ ! -e "$dir/done" ] || { echo "$dir has them"; exit 0; }
work=$dir/work
root=$work/bundle/rootfs
rm -rf "$work" "$dir/index.json" "$dir/blobs" "$dir/oci-layout"
mkdir -p "$work/debs/partial"
leave() {
	umount "$root/var/cache/apt/archives" 2>/dev/null || true
	rm -rf --one-file-system "$work"
}
trap leave EXIT
image=$work/layout

# layer TAG WHAT COMMAND: what COMMAND changes in the root becomes a layer; the image so far is TAG.
layer() {
	echo "$1: $2"
	mkdir -p "$root/var/cache/apt/archives"
	mount --bind "$work/debs" "$root/var/cache/apt/archives"
	cp /etc/resolv.conf "$root/etc/resolv.conf"
	printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # no service is started
	chmod 755 "$root/usr/sbin/policy-rc.d"
	chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive sh -euc "$3" >"$work/log" 2>&1 || {
		tail -20 "$work/log" >&2
		exit 1
	}
	umount "$root/var/cache/apt/archives"
	rm -rf "$root/etc/resolv.conf" "$root/usr/sbin/policy-rc.d" "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/log/* "$root"/tmp/*
	umoci repack --refresh-bundle --history.created_by "$2" --image "$image:$1" "$work/bundle" >/dev/null
}

umoci init --layout "$image"
umoci new --image "$image:empty"
umoci unpack --image "$image:empty" "$work/bundle" >/dev/null
echo "base: debootstrap $SUITE from $MIRROR"
debootstrap --variant=minbase "$SUITE" "$root" "$MIRROR" >"$work/log" 2>&1 || { tail -20 "$work/log" >&2; exit 1; }
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
umoci repack --refresh-bundle --history.created_by debootstrap --image "$image:py" "$work/bundle" >/dev/null
install='apt-get -qq update; apt-get -qq install -y --no-install-recommends'

layer py python "$install python3 ca-certificates"
layer py "a program" 'mkdir -p /app; printf "%s\n" "import json, http.server, ssl, sqlite3, asyncio, email, xml.dom.minidom" "print(\"ready\")" >/app/app.py'
umoci tag --image "$image:py" big
layer big node "$install nodejs"
layer big go "$install golang-go git"
layer big scipy "$install python3-numpy python3-pandas python3-scipy"
layer big "documents removed" 'rm -rf /usr/share/doc /usr/share/man'
layer big "a model" 'mkdir -p /data; head -c 134217728 /dev/urandom >/data/model.bin'
layer big "programs" 'printf "%s\n" "const h=require(\"http\"),c=require(\"crypto\"),z=require(\"zlib\");console.log(\"ready\")" >/app/app.js; printf "%s\n" "import numpy, pandas, scipy.linalg" "print(\"ready\")" >/app/sci.py'
for t in py big; do
	umoci config --image "$image:$t" --config.env PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
done
umoci rm --image "$image:empty"
umoci gc --layout "$image" >/dev/null
mv "$image"/* "$dir/"
touch "$dir/done"
echo "BENCH_IMAGES=$dir"
