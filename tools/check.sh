#!/usr/bin/env bash
# check.sh: what to run before a commit. Everything that is fast on the whole tree, and the race detector on the
# packages that differ from HEAD. e2e and bench run the program as another process, where -race sees nothing.
set -eu
cd "$(dirname "$0")/.."
GO=${GO:-go}
step() { printf '== %s\n' "$*"; }

bash tools/prereq.sh race

step "gofmt"
unformatted=$(find . -name '*.go' -not -path './.git/*' -print0 | xargs -0 "$($GO env GOROOT)/bin/gofmt" -l)
if [ -n "$unformatted" ]; then
	printf 'not formatted, run gofmt -w on:\n%s\n' "$unformatted" >&2
	exit 1
fi

step "vet"
$GO vet ./...
$GO vet -C tools ./...
$GO vet -C tools/anacrolix-peer ./...

step "staticcheck"
$GO tool -modfile=tools/go.mod staticcheck ./...
(cd tools && $GO tool staticcheck ./...)

step "layers"
$GO test -count=1 .

# The packages that changed: folders of changed and new Go files (and of testdata); all when go.mod changed or
# there is no commit yet.
all=$($GO list -f '{{.Dir}}' ./... | sed "s|^$PWD|.|")
if git rev-parse -q --verify HEAD >/dev/null 2>&1; then
	files=$(git diff --name-only HEAD; git ls-files --others --exclude-standard)
	if printf '%s\n' "$files" | grep -qx 'go\.mod'; then
		changed=$all
	else
		changed=$(printf '%s\n' "$files" | grep -E '\.go$|/testdata/' | sed -E 's|/testdata/.*||; s|^|./|; s|/[^/]*\.go$||' | sort -u | grep -Fx "$all" || true)
	fi
else
	changed=$all
fi
changed=$(printf '%s\n' "$changed" | grep -vE '^(\.|\./(e2e|bench)(/.*)?)?$' || true)
if [ -n "$changed" ]; then
	step "race:" $changed
	# shellcheck disable=SC2086 # one word per package
	CGO_ENABLED=1 $GO test -race -timeout 20m $changed
fi
step "all passed"
