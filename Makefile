# pantala: `make` alone lists what can be made. Long recipes live in tools/*.sh.

GO        ?= go
PREFIX    ?= /usr/local
FUZZTIME  ?= 60s
BENCH     ?= .
PKG       ?= ./bench/...
RELEASE   ?= $(patsubst v%,%,$(shell git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null))
LDFLAGS   := -s -w -X main.release=$(RELEASE)

export CGO_ENABLED ?= 0

.DEFAULT_GOAL := help
SIM_NODES ?= 10000
.PHONY: help build demo demo-image test check race sim fuzz bench bench-rivals bench-images e2e containerd2 install clean

help: ## list these targets
	@printf 'make <target>:\n\n'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nOn a fresh machine with Go and root: make demo, make test.\n'

build: ## the program, one static binary: bin/pantala
	$(GO) build -trimpath -buildvcs=auto -ldflags '$(LDFLAGS)' -o bin/pantala ./cmd/pantala

demo: build ## origin, tracker and two nodes on loopback share one file; cleans up after itself
	@$(GO) build -C tools -trimpath -o ../bin/demo-origin ./demo-origin
	@bash tools/demo.sh

demo-image: build ## registry, tracker and two nodes on loopback run a program of one image before it is downloaded (root)
	@$(GO) build -C tools -trimpath -o ../bin/demo-registry ./demo-registry
	@bash tools/demo-image.sh

test: ## all that must hold: vet, layers, unit tests, end-to-end tests (needs /dev/fuse and nginx)
	@GO='$(GO)' bash tools/test.sh

check: ## before a commit: gofmt, vet, staticcheck, layers, race tests of what changed
	@GO='$(GO)' bash tools/check.sh

race: ## all unit tests under the race detector (needs gcc)
	CGO_ENABLED=1 $(GO) test -race -timeout 30m $$($(GO) list ./... | grep -vE '/(e2e|bench)(/|$$)')

sim: ## swarms of SIM_NODES (10000) simulated nodes, cold and disturbed: about half an hour of one core
	SIM_NODES='$(SIM_NODES)' $(GO) test -run 'TestCold|TestDisturbed' -v -timeout 120m ./swarm/swarmtest

fuzz: ## every fuzz target there is, FUZZTIME (60s) each; PKG=./blob for one package
	@GO='$(GO)' FUZZTIME='$(FUZZTIME)' bash tools/fuzz.sh $(if $(filter file,$(origin PKG)),./...,$(PKG))

bench: ## whole system beside rivals; BENCH=regexp, BENCH_SIZE=1GiB, PKG=./blob for another package
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -timeout 60m $(PKG)

bench-rivals: ## install what the benchmarks compare with (Debian, root)
	apt-get install -y --no-install-recommends nginx-light fuse3 rclone aria2 python3-libtorrent opentracker iproute2
	@command -v chihaya >/dev/null || [ -x bin/chihaya ] || echo "for the tracker benchmarks beside chihaya: git clone https://github.com/chihaya/chihaya && go build -C chihaya -o $(CURDIR)/bin/chihaya ./cmd/chihaya"
	@[ -x bin/ctr-remote ] || echo "for the boot benchmark beside stargz: git clone -b v0.18.2 https://github.com/containerd/stargz-snapshotter && go build -C stargz-snapshotter/cmd -o $(CURDIR)/bin/ ./containerd-stargz-grpc ./ctr-remote"
	@[ -x bin/soci ] || echo "and beside SOCI, with gcc and zlib1g-dev: git clone -b v0.15.0 https://github.com/awslabs/soci-snapshotter && CGO_ENABLED=1 go build -C soci-snapshotter/cmd -o $(CURDIR)/bin/ ./soci-snapshotter-grpc ./soci"

bench-images: ## images of the boot benchmark in bin/images, from Debian packages: minutes (root)
	@bash tools/bench-images.sh bin/images

e2e: ## end-to-end tests alone; FULL=1 for 1 GiB files and fifty kills
	@bash tools/prereq.sh fuse nginx
	E2E_FULL='$(FULL)' bash tools/tidy.sh $(GO) test -count=1 -p 1 -timeout 60m ./e2e/...

containerd2: bin/containerd2/containerd-shim-runc-v2 ## containerd 2.x for CONTAINERD2_BIN=bin/containerd2: minutes of compiling

CONTAINERD2 ?= v2.4.2
bin/containerd2/containerd-shim-runc-v2:
	for c in containerd ctr containerd-shim-runc-v2; do \
		(cd / && GOFLAGS= GOBIN='$(CURDIR)/bin/containerd2' $(GO) install -tags no_btrfs github.com/containerd/containerd/v2/cmd/$$c@$(CONTAINERD2)) || exit 1; done

install: build ## to PREFIX (/usr/local), and /sbin/mount.pantala for fstab; DESTDIR is honoured
	install -D -m 0755 bin/pantala '$(DESTDIR)$(PREFIX)/bin/pantala'
	install -d '$(DESTDIR)/sbin'
	ln -sfn '$(PREFIX)/bin/pantala' '$(DESTDIR)/sbin/mount.pantala'

clean: ## remove what was built
	rm -rf bin
