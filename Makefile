# Every target does its own set-up: it installs what the machine lacks, says so, and is quick the second time.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo 0.1.0-dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
GO_SOURCES := $(shell find cmd packaging/goresctrl proxy runtime store supervisor -name '*.go' -o -name '*.toml' -o -name '*.html' 2>/dev/null) go.mod go.sum
FUZZTIME ?= 20s
SOAK ?= 1h
IMAGES := $(CURDIR)/dist/images
DEMO_ROOT ?= /var/lib/tarima-demo

export CGO_ENABLED := 0
export TARIMA_RUNC := $(CURDIR)/bin/runc

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: bin/tarima bin/runc ## bin/tarima and bin/runc

# A build from nothing compiled is quicker by a sixth with these. GOGC: the compiler collects its own garbage less often. -dwarf=false: what a debugger
# would read is stripped by -s -w anyway. packaging/build takes the same flags, and so what is compiled already.
export BUILD_FLAGS := -trimpath -gcflags=all=-dwarf=false
GO_BUILD := GOGC=400 go build

bin/tarima: $(GO_SOURCES)
	$(GO_BUILD) $(BUILD_FLAGS) -ldflags "$(LDFLAGS)" -o $@ ./cmd/tarima

# The OCI runtime cannot be part of a binary without cgo: it is built from its own module and shipped beside it.
bin/runc: packaging/runc/go.mod packaging/runc/go.sum
	./test/setup build
	CGO_ENABLED=1 $(GO_BUILD) -C packaging/runc $(BUILD_FLAGS) -tags "seccomp netgo osusergo" \
		-ldflags "-s -w -extldflags -static" -o $(CURDIR)/$@ github.com/opencontainers/runc
	@touch $@

.PHONY: images
images: dist/go.mod ## the fixture images of demo and tests, into dist/images
	./test/setup images
	go run ./test/images/build -out $(IMAGES)

# A module of its own, so that no Go command walks through what is built there.
dist/go.mod:
	@mkdir -p dist
	@printf 'module dist\n' > $@

.PHONY: demo
demo: build images ## bring a whole demo site up here and show it; Ctrl-C leaves nothing behind
	go build -trimpath -o bin/registry ./test/registry/cmd/registry
	./test/demo $(DEMO_ROOT) $(IMAGES)

.PHONY: test
test: bin/runc ## unit, property and engine tests, with the race detector
	./test/setup test
	CGO_ENABLED=1 go test -race -tags man -timeout 20m ./...

.PHONY: e2e
e2e: package images bin/bench-door ## what a user would do and what must survive, on real containers
	./test/setup e2e
	go test -tags e2e -p 1 -count 1 -timeout 50m -v ./test/neighbours/... ./test/e2e/... ./test/infront/... ./test/door/... ./test/package/...

.PHONY: e2e-full
e2e-full: package images bin/bench-door ## the same at all moments: hours
	./test/setup e2e
	go test -tags full -count 1 -timeout 20m ./proxy
	TARIMA_E2E_FULL=1 go test -tags e2e,full -p 1 -count 1 -timeout 6h -v ./test/neighbours/... ./test/e2e/... ./test/infront/... ./test/door/... ./test/package/...
	$(MAKE) guest

.PHONY: mutation
mutation: build images ## mechanisms switched off one by one: the end-to-end test of each has to fail (ONLY=5-exit-journal-unread)
	./test/setup mutation
	./test/mutation/run $(ONLY)

.PHONY: guest
guest: $(if $(filter -short,$(GUEST)),,package images) bin/runc dist/go.mod ## tests in a Debian 12 virtual machine: systemd, cgroup v2 (GUEST=-short: a few minutes)
	./test/setup guest
	go test -tags guest -count 1 -timeout 6h -v $(GUEST) $(if $(filter -short,$(GUEST)),-skip '^(TestSite|TestEngineWithCrun)$$') ./test/guest/...

.PHONY: bench
bench: build images bin/bench bin/bench-caddy ## figures beside Debian's docker.io and other proxies, printed as ratios; writes bench.json (ONLY=door: a part; DOOR=h1,h2: of the door)
	./test/setup bench
	bin/bench $(if $(ONLY),-only $(ONLY)) $(if $(DOOR),-door $(DOOR))

# A peer of the public door that Debian has in an older version alone.
bin/bench-caddy: test/bench/caddy/go.mod test/bench/caddy/go.sum
	go build -C test/bench/caddy -trimpath -ldflags "-s -w" -o $(CURDIR)/$@ github.com/caddyserver/caddy/v2/cmd/caddy
	@touch $@

.PHONY: soak
soak: build bin/bench ## an hour of probes, kills and restarts: does the daemon grow? SOAK=10m for less
	./test/setup test
	bin/bench -soak $(SOAK)

.PHONY: bin/bench
bin/bench: bin/bench-door
	$(GO_BUILD) $(BUILD_FLAGS) -o bin/bench ./test/bench
	$(GO_BUILD) $(BUILD_FLAGS) -ldflags "$(LDFLAGS)" -o bin/bench-appliance ./test/bench/appliance

# Our proxy with room for as many connections as a test or a benchmark wants.
.PHONY: bin/bench-door
bin/bench-door:
	$(GO_BUILD) $(BUILD_FLAGS) -ldflags "$(LDFLAGS)" -o bin/bench-door ./test/bench/door

.PHONY: lint
lint: bin/tools/golangci-lint ## gofumpt, go vet, golangci-lint with the layer rules
	bin/tools/golangci-lint run --allow-parallel-runners ./...
	bin/tools/golangci-lint run --allow-parallel-runners --build-tags e2e,guest ./test/...

bin/tools/golangci-lint: packaging/tools/go.mod packaging/tools/go.sum
	@mkdir -p bin/tools
	go build -C packaging/tools -trimpath -o $(CURDIR)/$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

.PHONY: vuln
vuln: ## known vulnerabilities (asks the Go vulnerability database)
	go run -modfile packaging/tools/go.mod golang.org/x/vuln/cmd/govulncheck ./...

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (20s)
	./test/fuzz $(FUZZTIME)

.PHONY: package
package: build dist/go.mod bin/tools/nfpm ## a .deb with the binary, runc and the units, into dist
	./packaging/build $(VERSION)

bin/tools/nfpm: packaging/tools/go.mod packaging/tools/go.sum
	@mkdir -p bin/tools
	go build -C packaging/tools -trimpath -o $(CURDIR)/$@ github.com/goreleaser/nfpm/v2/cmd/nfpm
	@touch $@

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist
