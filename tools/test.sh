#!/usr/bin/env bash
# test.sh: all that must hold in a clean checkout. Unit tests first, then the end-to-end tests alone, one
# package after the other, because those measure time-outs of whole programs. Neither may leave anything behind.
set -euo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}

bash tools/prereq.sh fuse nginx || {
	echo "make test runs real mounts behind a real nginx. Without them, 'go test ./...' runs the rest." >&2
	exit 1
}
if [ "$(id -u)" != 0 ]; then
	echo "not root: tests of passthrough, cgroups, foreign users and networks are skipped" >&2
elif bash tools/prereq.sh fusermount libtorrent redis clients registry containers oracles erofs netns; then
	export CI=true # everything is there: a test that would skip fails instead
else
	echo "make test goes on; tests that need these are skipped" >&2
fi

step() { printf '\n== %s\n' "$*"; }
step "vet"
$GO vet ./...
$GO vet -C tools ./...
$GO vet -C tools/anacrolix-peer ./...
step "layers"
$GO test -count=1 .
step "unit tests"
unit=$($GO list ./... | grep -vE '/(e2e|bench)(/|$)')
# shellcheck disable=SC2086 # one word per package
bash tools/tidy.sh $GO test -timeout 20m $unit
step "end to end"
bash tools/tidy.sh $GO test -count=1 -p 1 -timeout 40m ./e2e/... ./bench/...
step "all passed"
