# SPDX-License-Identifier: Apache-2.0

# Building needs Go only: generated Go and BPF objects are committed.

MODULE  := github.com/culvert-mesh/culvert
PLUGINS := $(addprefix github.com/containernetworking/plugins/plugins/,\
	main/ptp main/bridge main/loopback ipam/host-local)

CRYPTO := ./ztunnel/hbone/aead ./ztunnel/hbone/record

FUZZTIME   ?= 30s
STRESSTIME ?= 60s
SOAKTIME   ?= 10m

# What builds and checks, but is no part of the product, is a module of its own.
TOOL := go tool -modfile=$(CURDIR)/tools/go.mod
HELM := go tool -modfile=$(CURDIR)/tools/helm/go.mod helm

# What is compiled for one target alone is compiled without DWARF, a seventh faster. The
# race detector does without.
FAST := -gcflags=all=-dwarf=false

# Compilers live for a second and collect garbage for a quarter of it, if they are let.
COMPILE := GOGC=off GOMEMLIMIT=1536MiB

# The packages of test/kubernetes that compile in seconds: kubeall is all of Kubernetes.
CLUSTER := . ./binaries ./cluster ./pause ./podapp ./unlimited

# Any Go from 1.21 on fetches the one that go.mod names, but not where the
# machine's own setting is `local`.
export GOTOOLCHAIN = auto

# go build stamps the commit, and fails where git does not trust the checkout.
ifeq ($(shell git rev-parse HEAD 2>/dev/null),)
export GOFLAGS += -buildvcs=false
endif

.PHONY: build
build: ## build the programs and the reference CNI plugins into bin/ (default)
	$(COMPILE) CGO_ENABLED=0 go build -o bin/ ./cmd/...
	$(COMPILE) CGO_ENABLED=0 go -C tools build -o ../bin/cni/ $(PLUGINS)

.PHONY: signer
signer: ## build culvert-signer, for keys in an HSM or KMS, into bin/ (needs gcc)
	$(COMPILE) CGO_ENABLED=1 go -C signer build -o ../bin/culvert-signer .

.PHONY: install
PREFIX ?= /usr/local
install: build ## install culvert, kubectl's plugin and the manual pages below PREFIX (/usr/local)
	install -D -m 0755 bin/culvert $(DESTDIR)$(PREFIX)/bin/culvert
	ln -sf culvert $(DESTDIR)$(PREFIX)/bin/kubectl-culvert
	ln -sf culvert $(DESTDIR)$(PREFIX)/bin/kubectl_complete-culvert
	bin/culvert man $(DESTDIR)$(PREFIX)/share/man/man1

.PHONY: demo
demo: build ## show two nodes and their pods getting mutual TLS (root; KEEP=1 leaves it running)
	CGO_ENABLED=0 go build -o bin/demo ./test/demo
	@bin/demo

# gotestsum prints how it goes and leaves a recording of each part; test/skips adds
# them up. A part that fails does not keep the others from running.
PARTS := unit bench alerts signer no-avx512 no-vaes purego e2e
part   = $(TOOL) gotestsum --format=$(2) --format-icons=text --jsonfile=$(CURDIR)/bin/test/$(1).json -- -count=1

# The packages whose tests wait for the kernel for minutes begin first, and leave most of a
# processor to others: three at a time.
UNIT = -p=3 -timeout=10m ./ztunnel/redirect ./ztunnel/pods $$(go list ./... | \
	grep -vE '^$(MODULE)/(test/e2e|ztunnel/redirect|ztunnel/pods)$$')

.PHONY: test
test: build ## run every test and count them; as root, those with namespaces and BPF too
	@rm -rf bin/test
	@status=0; for part in $(PARTS); do echo "--- $$part"; $(MAKE) --no-print-directory test-$$part || status=1; done; \
		go run ./test/skips $(PARTS) && exit $$status

.PHONY: $(addprefix test-,$(PARTS))
test-unit:
	@$(call part,unit,pkgname-and-test-fails) $(UNIT)

test-bench:
	@cd bench && $(call part,bench,pkgname-and-test-fails) -timeout=10m ./...

# What it needs of Prometheus is no part of the product's module.
test-alerts:
	@cd test/alerts && $(call part,alerts,pkgname-and-test-fails) -timeout=10m ./...

# What it needs of clouds and of C is no part of the product's module.
test-signer:
	@cd signer && $(call part,signer,pkgname-and-test-fails) -timeout=10m ./...

# The crypto once more as on CPUs that can less, and without assembler.
test-no-avx512:
	@GODEBUG=cpu.avx512f=off $(call part,no-avx512,pkgname-and-test-fails) -short -skip='/VAES_with_AVX-512' $(CRYPTO)
test-no-vaes:
	@GODEBUG=cpu.avx2=off $(call part,no-vaes,pkgname-and-test-fails) -short -skip='/VAES' $(CRYPTO)
test-purego:
	@$(call part,purego,pkgname-and-test-fails) -short -tags purego ./ztunnel/hbone/aead

# The stories of test/e2e measure milliseconds: nothing of make test runs beside them.
test-e2e:
	@$(call part,e2e,testname) -timeout=30m -p=1 ./test/e2e/...

# A module of its own, and with programs of its own to build: no part of make test.
.PHONY: test-kubernetes
test-kubernetes: build ## test on a real two-node Kubernetes (root; builds it first, once: 13 minutes on two cores; TEST_CLUSTER=NAME: on one that is kept)
	@mkdir -p bin/test
	@cd test/kubernetes && $(call part,kubernetes,testname) -timeout=45m -skip='$(MEASURES)|$(SPIRE)|$(VAULT)|$(ABROAD)' $(CLUSTER)

# SPIRE takes as long to build as Kubernetes: it has a command of its own, which CI leaves out.
SPIRE := ^TestSPIRE

.PHONY: test-spire
test-spire: build ## test with SPIRE's own server and agents (root; builds them first, once: some 8 minutes on two cores)
	@mkdir -p bin/test
	@cd test/kubernetes && $(call part,spire,testname) -timeout=45m -run='$(SPIRE)' .

# Vault is under the Business Source License: CI builds nothing of it.
VAULT := ^TestVault

.PHONY: test-vault
test-vault: ## test with HashiCorp Vault's own core and PKI engine, on a Kubernetes too (root; builds them first, once: Vault some 3 minutes on two cores)
	@mkdir -p bin/test
	@cd test/kubernetes && $(call part,vault,testname) -timeout=30m -run='$(VAULT)' .

# Two clusters at once, beside those that others share, are more than CI has room for.
ABROAD := ^TestPodsOfTwoClusters

.PHONY: test-abroad
test-abroad: build ## test pods of two Kubernetes clusters, of two trust domains, that dial each other (root)
	@mkdir -p bin/test
	@cd test/kubernetes && $(call part,abroad,testname) -timeout=30m -run='$(ABROAD)' .

# It measures, and takes as long as half of the others.
MEASURES := ^TestAZtunnelKnowsFiveThousandPods

.PHONY: bench-kubernetes
bench-kubernetes: ## what 5,000 pods cost a ztunnel on a real API server (root, 7 minutes)
	go -C test/kubernetes test -count=1 -timeout=30m -v -run=$(MEASURES) .

.PHONY: cluster-build
cluster-build: ## build what the cluster runs, into the user's cache directory
	@go -C test/kubernetes build -o $(CURDIR)/bin/cluster .
	@bin/cluster build

.PHONY: cluster
cluster: ## start a real two-node Kubernetes with Culvert on it, to try things on (root; CGROUPS=v2: with cgroup2 alone)
	@go -C test/kubernetes build -o $(CURDIR)/bin/cluster .
	@bin/cluster up $(if $(CGROUPS),-cgroups $(CGROUPS))
	@bin/cluster install

.PHONY: cluster-down
cluster-down: ## remove what make cluster started
	@go -C test/kubernetes build -o $(CURDIR)/bin/cluster .
	@bin/cluster down

.PHONY: race
race: ## run the tests under the race detector, but for the slow ones
	$(COMPILE) go build -race $(FAST) $$(go list -f '{{if and .GoFiles (ne .Name "main")}}{{.ImportPath}}{{end}}' ./...)
	go test -race $(FAST) -vet=off -short $(UNIT)
	go -C bench test -race $(FAST) -vet=off -short -timeout=10m ./...

.PHONY: stress
stress: ## have apps talk over a bad path while all goes wrong (root; STRESSTIME=10m SEED=7)
	@go run -race $(FAST) ./test/stress -time $(STRESSTIME) $(if $(SEED),-seed $(SEED))

.PHONY: soak
soak: ## have certificates of 25 s replaced under 500 new connections/s (root; SOAKTIME=10m)
	@go run ./test/soak -time $(SOAKTIME)

.PHONY: t-root
t-root: build ## re-key the root of a large mesh under load, while the CA is killed (root; NODES=20 IDENTITIES=200 STREAMS=2000 RATE=500 TTL=60s)
	T_ROOT='$(or $(NODES),20) $(or $(IDENTITIES),200) $(or $(STREAMS),2000) $(or $(RATE),500) $(or $(TTL),60s)' \
		go test -count=1 -timeout=30m -v -run='^TestARootIsRekeyedUnderLoadWhileTheCAIsKilled$$' ./test/e2e

.PHONY: t-deny
t-deny: build ## deny identities that have connections, and say how long those live on (root; ROUNDS=1000)
	DENY_ROUNDS=$(or $(ROUNDS),1000) go test -count=1 -timeout=30m -v -run='^TestADeniedIdentityLosesItsConnectionsInSeconds$$' ./test/e2e

# test/kubernetes/vault is not tidied: Vault's own tests would come with the clients of all
# clouds, which it replaces by empty packages.
.PHONY: lint
lint: ## gofmt, go.mod, vet, staticcheck, the import table, shell syntax
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || { echo "lint: run gofmt -w on these files" >&2; exit 1; }
	@for module in . bench bench/fortio signer tools tools/helm test/alerts test/kubernetes test/kubernetes/certmanager \
		test/kubernetes/spire test/kubernetes/spire/ejbca test/kubernetes/spirecontroller; do go -C $$module mod tidy -diff || exit 1; done
	$(COMPILE) go vet ./...
	$(COMPILE) GOOS=darwin CGO_ENABLED=0 go build $(FAST) -ldflags='-s -w' -o /dev/null ./cmd/culvert
	$(COMPILE) GOOS=windows CGO_ENABLED=0 go build $(FAST) -ldflags='-s -w' -o /dev/null ./cmd/culvert
	$(COMPILE) go vet -tags aes256 ./ztunnel/hbone
	$(COMPILE) go -C bench vet ./...
	$(COMPILE) go -C signer vet ./...
	$(COMPILE) go -C test/alerts vet ./...
	$(COMPILE) go -C test/kubernetes vet $(CLUSTER)
	$(TOOL) staticcheck ./...
	cd bench && $(TOOL) staticcheck ./...
	cd signer && $(TOOL) staticcheck ./...
	cd test/alerts && $(TOOL) staticcheck ./...
	cd test/kubernetes && $(TOOL) staticcheck $(CLUSTER)
	go test -count=1 ./test/arch
	@find . -name '*.sh' -o -path './.ci/run' | xargs -n1 bash -n

.PHONY: generate
generate: ## regenerate BPF objects (clang-19, libbpf-dev) and protobuf (protoc)
	go generate ./...

.PHONY: map
map: ## bundle the page of culvert map into cli/livemap/web/dist (npm)
	npm --prefix cli/livemap/web ci --no-audit --no-fund
	node cli/livemap/web/build.mjs

# Chromium of the distribution: nothing else is fetched but two packages.
.PHONY: test-map
test-map: ## test the page of culvert map in a browser (root, npm, chromium; CHROMIUM=PATH; PICTURES=DIR makes the docs')
	CGO_ENABLED=0 go build -o bin/ ./cmd/culvert ./test/map/stage
	PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm --prefix test/map ci --no-audit --no-fund
	node --test --test-concurrency=1 test/map/shop.test.mjs test/map/live.test.mjs test/map/large.test.mjs

.PHONY: helm
helm: ## build helm, which renders the chart in its tests, into Go's cache (some minutes, once)
	@$(COMPILE) $(HELM) version --short

.PHONY: manifests
manifests: helm ## render deploy/chart into deploy/manifests and its golden files
	go test -count=1 ./deploy/chart -update

# Go fuzzes one target per run. The instrumented program of a package is built once; two
# packages are at work at a time, with one worker each. Minimizing a single interesting input
# may by default take longer than the whole run.
.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (30s)
	@mkdir -p bin/fuzz
	@grep -rlE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | xargs -n 1 dirname | sort -u | \
		FUZZTIME=$(FUZZTIME) FUZZCACHE=$$(go env GOCACHE)/fuzz xargs -P 2 -n 1 test/fuzz.sh

.PHONY: bench
bench: ## set the tunnel beside other proxies (root, up to 45 minutes; ROW=bulk,rtt PEER=ours,nginx: a part, RESULTS=DIR)
	go -C bench run . $(if $(ROW),-row '$(ROW)') $(if $(PEER),-peer '$(PEER)') $(if $(RESULTS),-results '$(abspath $(RESULTS))')

.PHONY: bench-goals
bench-goals: ## measure what is asked beside Istio's ztunnel (root, some 20 minutes; ZTUNNEL=PATH, RESULTS=DIR)
	@test -x '$(ZTUNNEL)' || { echo "bench-goals: ZTUNNEL=PATH of Istio's ztunnel is needed" >&2; exit 1; }
	go -C bench run . -row burst,idle,bulk,open,cold,behind,handshakes,fortio -repetitions 5 \
		-peer 'direct,relay,ours,ours-aes256,ours-std,ztunnel=$(abspath $(ZTUNNEL))' $(if $(RESULTS),-results '$(abspath $(RESULTS))')

.PHONY: bench-smoke
bench-smoke: ## see that every benchmark runs (root, under 3 minutes)
	go test -run='^$$' -bench=. -benchtime=1x -timeout=5m -p=1 \
		$$(grep -rl --include='*_test.go' --exclude-dir=bench '^func Benchmark' . | xargs -n1 dirname | sort -u)
	go -C bench test -run='^$$' -bench=. -benchtime=1x -timeout=5m -p=1 ./...
	go -C bench run . -smoke
	go -C bench run ./attacks -smoke

.PHONY: bench-attacks
bench-attacks: ## see what attacks cost those beside, into docs/security.md (root, 4 minutes; BEFORE=COMMIT: of that too, 8)
	go -C bench run ./attacks $(if $(BEFORE),-before $(BEFORE))

.PHONY: bench-noise
bench-noise: ## see what a quiet pod feels of a noisy one, into docs/security.md (root, 4 minutes; BEFORE=COMMIT: of that too, 8)
	go -C bench run ./attacks -noise $(if $(BEFORE),-before $(BEFORE))

.PHONY: clean
clean: ## remove what was built
	rm -rf bin

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
