#!/usr/bin/env bash
# test.sh: all that must hold in a clean checkout. Unit tests first, then the end-to-end tests alone, because those
# measure time-outs of whole programs.
set -eu
cd "$(dirname "$0")/.."
GO=${GO:-go}

bash tools/prereq.sh fuse nginx || {
	echo "make test runs real mounts behind a real nginx. Without them, 'go test ./...' runs the rest." >&2
	exit 1
}
if [ "$(id -u)" = 0 ]; then
	export CI=true # all prerequisites are there: a test that would skip fails instead
else
	echo "not root: tests of passthrough, cgroups and foreign users will be skipped" >&2
fi

step() { printf '\n== %s\n' "$*"; }
step "vet"
$GO vet ./...
$GO vet -C tools ./...
step "layers"
$GO test -count=1 .
step "unit tests"
mapfile -t unit < <($GO list ./... | grep -vE '/(e2e|bench)(/|$)')
$GO test -timeout 20m "${unit[@]}"
step "end to end"
$GO test -count=1 -timeout 40m ./e2e/... ./bench/...
step "all passed"
