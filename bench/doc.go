// Package bench measures the whole of pantala against what its users would take instead, and against what the
// machine can do: rivals run as the external programs that they are, in the same run and on the same files. It
// has benchmarks only.
//
//	go test -bench . ./bench/...                    256 MiB files
//	BENCH_SIZE=1GiB go test -bench . ./bench/...    for the record
//	BENCH_IMAGES=$PWD/bin/images CONTAINERD2_BIN=$PWD/bin/containerd2 go test -bench Boot -benchtime 1x -timeout 120m ./bench
//	                                                images (make bench-images containerd2)
//
// Units are benchstat's: MB/s is 10^6 bytes of the file per second of wall clock; cpu-s/GiB is user and system
// time of the daemon and the reader together, per 2^30 bytes; x-rclone and x-plain are ratios within one run, above
// 1 where pantala is the better. Trust CPU seconds first, ratios second, absolute figures never: machines are shared.
//
// # Place
//
// Above everything, beside e2e; e2e/e2etest holds the parts.
//
// # Goroutines
//
// Those of e2etest, and of probers, which end with their race.
//
// # Locks
//
// None: benchmarks run one after the other, and a later one may use the figure of an earlier one.
//
// # Errors
//
// A rival that is not installed skips its benchmark with the command that installs it; wrong bytes and failed
// reads fail a benchmark as they fail a test.
package bench
