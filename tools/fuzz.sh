#!/usr/bin/env bash
# fuzz.sh [PACKAGES]: runs every fuzz target of the packages (all) for FUZZTIME (60s), one after the other, and
# sums up. A failing input is kept by go test under testdata/fuzz: commit it with its fix.
set -u
cd "$(dirname "$0")/.."
GO=${GO:-go}
FUZZTIME=${FUZZTIME:-60s}
[ "$#" -gt 0 ] || set -- ./...

packages=$($GO list "$@") || exit 1
count=0 failed=()
for package in $packages; do
	listed=$($GO test -list '^Fuzz' "$package") || { failed+=("$package (does not build)"); continue; }
	for target in $(printf '%s\n' "$listed" | grep '^Fuzz'); do
		count=$((count + 1))
		printf '== %s %s, %s\n' "${package#*/*/*/}" "$target" "$FUZZTIME"
		# Go would spend up to a minute on making each interesting input smaller, which of whole images takes all the time.
		$GO test -run '^$' -fuzz "^$target\$" -fuzztime "$FUZZTIME" -fuzzminimizetime 10x "$package" | grep -v '^fuzz: elapsed: [0-9]*s, gathering' | tail -n 3
		[ "${PIPESTATUS[0]}" = 0 ] || failed+=("$package $target")
	done
done
printf '\n%d fuzz targets, %d failed\n' "$count" "${#failed[@]}"
[ "$count" -gt 0 ] || { echo "no fuzz targets found in: $*" >&2; exit 1; }
[ "${#failed[@]}" = 0 ] || { printf '  %s\n' "${failed[@]}" >&2; exit 1; }
