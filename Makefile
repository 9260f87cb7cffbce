SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

GO ?= go
VERSION ?= $(shell git describe --tags --dirty 2>/dev/null)
FUZZTIME ?= 30s

# What the tests run beside Go, as command:Debian package (+ further packages).
# This is the only list of them.
TEST_TOOLS := gcc:gcc+libc6-dev openssl:openssl ssh-keygen:openssh-client certtool:gnutls-bin htpasswd:apache2-utils curl:curl jq:jq script:bsdutils \
	unshare:util-linux nsenter:util-linux strace:strace fusermount3:fuse3 buildah:buildah podman:podman runc:runc \
	newuidmap:uidmap cfssl:golang-cfssl keytool:default-jre-headless nginx:nginx-light haproxy:haproxy chromium:chromium mandoc:mandoc zsh:zsh fish:fish age:age

# What some test has to count, or else the tests are not the ones they were.
COUNTS := "kills" "power cuts" "faults fired" "disk operations numbered" "system calls compared" "disk operations refused" \
	"flushes failed once" "commits of unknown outcome" "data directories taken away" "damaged stores tried" \
	"damaged keysets tried" "damages under a running service" "ends of the audit trail at steps" \
	"kills beside an audit trail" "refusals in a flood" "callers × routes" "exchanges as described" "examples sent" "CSRs of a generated client" "generated bodies accepted" "generated bodies refused by both" "guesses" "pairs timed" "smuggling forms" \
	"paths tried" "ciphers offered by openssl" "secrets searched for" "planted secrets found" "connection attempts" \
	"handshakes that fail" "starts on a full disk" "connections held" "readers that never read" \
	"creates of 4096 bits at once" "hostile JSON bodies" "specs judged by openssl" "specs judged by certtool" \
	"specs refused" "broken chains sent" "model operations" "crashes" "log lines dropped" \
	"rounds while nobody read the log" "hang-ups survived" "health checks while keys change" \
	"rollovers" "tokens held against published keys" "signatures while the pair is replaced" "kills beside a signature" "kills of user commands" \
	"chains that openssl accepts too" "chains that openssl refuses too" "broken chains judged" "CAs that signed" \
	"guesses refused beside known networks" "guesses of a thousand networks" "routes × pages" \
	"requests by pages of other sites" "operations tried in the explorer" "things done with the page" "proxies before the service" \
	"signatures that OpenSSL verified" "backups under writers" "kills of backups" "kills of restores" \
	"damaged backups tried" "hostile backups refused" "scripts of commands" "CSRs and certificates shown" "commands on a terminal"

# The linter is pinned: a newer one finds new things in old code.
LINT_VERSION := 2.15.0
LINT_DIR := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/attestcsr/golangci-lint-$(LINT_VERSION)

.PHONY: build docs/commands.md docs/metrics.md man test soak test-tools lint fuzz image help ui

help: ## say what can be made
	@sed -nE 's/^([a-z./-]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 18

build: ## bin/attestcsr: static and stripped
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X attestcsr/command.release=$(VERSION)" -o bin/attestcsr .

docs/commands.md: ## the page about the commands, from the commands
	$(GO) run ./test/commands markdown $@

# The date is that of the commit, so that the pages of one commit are the same everywhere.
man: ## bin/man: man pages of the commands
	rm -rf bin/man
	$(GO) run ./test/commands man bin/man "$$(date -u -d "@$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || date +%s)}" +%Y-%m-%d)"

TESTS = $(GO) test -race -tags $(TAGS) $(PACE) ./...

test: TAGS := tools
test: PACE := -timeout 20m
test: test-tools ## all tests, with the race detector and the tests that need tools
	$(GO) vet -tags tools ./...
	$(counted)

soak: TAGS := tools,soak
soak: PACE := -timeout 6h -p 1
soak: COUNTS += "long runs"
soak: test-tools ## the same with the long runs of what kills, cuts, floods and fuzzes: two hours on two cores that do nothing else
	$(counted)
	$(MAKE) fuzz

# Runs the tests, each package with a line when it is done, and prints how often
# they did what they are there for. A test that was skipped or taken away counts
# nothing, and that fails too.
define counted
@counts=$$(mktemp); trap 'rm -f "$$counts"' EXIT; failed=0; \
	echo '$(TESTS)'; TEST_COUNTS_FILE="$$counts" $(TESTS) || failed=1; \
	echo; echo "What the tests did:"; sort -t "$$(printf '\t')" -k2,2 "$$counts" | awk -F '\t' '{printf "%9d %-40s %s\n", $$1, $$2, $$3}'; \
	if (( failed )); then \
		echo "Tests failed: look above for the lines that begin with \"--- FAIL\" and for what follows them." >&2; \
		echo "To run one again: $(GO) test -race -tags $(TAGS) -count=1 -run '^TestName$$' ./its/package" >&2; exit 1; \
	fi; \
	for what in $(COUNTS); do \
		grep -qF "$$(printf '\t%s\t' "$$what")" "$$counts" || { echo "no test counted $$what: was its test skipped or removed? Put it back, or take \"$$what\" out of COUNTS in the Makefile." >&2; failed=1; }; \
	done; exit $$failed
endef

test-tools: ## install what the tests need and is missing (Debian packages)
	@PATH="$$PATH:/usr/sbin:/sbin"; commands=(); packages=(); \
	for tool in $(TEST_TOOLS); do \
		command -v "$${tool%%:*}" >/dev/null && continue; \
		commands+=("$${tool%%:*}"); packages+=($$(tr + ' ' <<<"$${tool#*:}")); \
	done; \
	if (( $${#packages[@]} == 0 )); then exit 0; fi; \
	echo "The tests need commands that are missing here: $${commands[*]}"; \
	if ! command -v apt-get >/dev/null; then echo "There is no apt-get to install them with; install them and try again." >&2; exit 1; fi; \
	sudo=(); if (( EUID != 0 )); then sudo=(sudo); fi; \
	echo "Installing the Debian packages $${packages[*]}$${sudo:+ through sudo}"; \
	"$${sudo[@]}" apt-get update -q; \
	"$${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$${packages[@]}"

lint: ## formatting and golangci-lint
	@unformatted=$$(gofmt -l .); if [[ -n "$$unformatted" ]]; then echo "not formatted with gofmt:" $$unformatted >&2; exit 1; fi
	@lint=$$(command -v golangci-lint $(LINT_DIR)/golangci-lint $$($(GO) env GOPATH)/bin/golangci-lint | \
		while read -r bin; do if "$$bin" version 2>/dev/null | grep -F 'version $(LINT_VERSION) ' >/dev/null; then echo "$$bin"; break; fi; done) || true; \
	if [[ -z "$$lint" ]]; then \
		echo "Building golangci-lint $(LINT_VERSION) into $(LINT_DIR), which takes some minutes the first time"; \
		GOFLAGS= GOBIN=$(LINT_DIR) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v$(LINT_VERSION); \
		lint=$(LINT_DIR)/golangci-lint; \
	fi; \
	echo "$$lint run ./..."; "$$lint" run --allow-parallel-runners ./...

# What the pages and their tests have of others. Each is the folder that it goes to, a
# package of npm, which is pinned by its integrity, the files that are taken, and those that
# say under which licence. Only this target needs npm. SHA256SUMS has the sums of the files
# before they are compressed.
define UI_PACKAGES
handler/console/ui/vendor swagger-ui-dist@5.35.0 sha512-U06rpMtW9V3XPGOBeamTUSr0Z09jMX4IJuANpE/EZbAhw0G8CgwrzU4YmXkn/h0wCDNsXdGarTNNHC3sU8yVUQ== swagger-ui-bundle.js,swagger-ui.css LICENSE,NOTICE,swagger-ui-bundle.js.LICENSE.txt
handler/console/ui/vendor uplot@1.6.32 sha512-KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw== dist/uPlot.iife.min.js,dist/uPlot.min.css LICENSE
test/page/vendor axe-core@4.14.1 sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ== axe.min.js LICENSE
endef
export UI_PACKAGES

ui: ## the parts of the pages and of their tests that are of others, copied from npm
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	cut -d' ' -f1 <<<"$$UI_PACKAGES" | sort -u | while read -r to; do rm -rf "$$to"; mkdir -p "$$to"; done; \
	while read -r to package integrity files licences; do \
		archive=$$(cd "$$dir" && npm pack --silent "$$package"); \
		if [[ "sha512-$$(openssl dgst -sha512 -binary "$$dir/$$archive" | base64 -w 0)" != "$$integrity" ]]; then echo "$$package is not what it was" >&2; exit 1; fi; \
		tar -xzf "$$dir/$$archive" -C "$$dir"; \
		for file in $${files//,/ }; do \
			(cd "$$dir/package/$$(dirname "$$file")" && sha256sum "$$(basename "$$file")") >>"$$to/SHA256SUMS"; \
			gzip -9n <"$$dir/package/$$file" >"$$to/$$(basename "$$file").gz"; \
		done; \
		for file in $${licences//,/ }; do cp "$$dir/package/$$file" "$$to/$${package%@*}.$$(basename "$$file")"; done; \
		chmod 644 "$$to"/*; rm -rf "$$dir/package"; \
	done <<<"$$UI_PACKAGES"

# Up to Go 1.26 a fuzz run that found nothing sometimes fails when its time is up,
# with a bare "context deadline exceeded" (go.dev/issue/75804). A finding always
# names its failing input.
fuzz: ## every fuzz target for FUZZTIME
	@targets=$$($(GO) test -tags tools -list '^Fuzz' ./... | awk '/^Fuzz/ {names[n++] = $$1} /^ok/ {for (i = 0; i < n; i++) print $$2, names[i]; n = 0}'); \
	written=$$(grep -rhE --include='*_test.go' '^func Fuzz[A-Z]' . | wc -l); listed=$$(wc -w <<<"$$targets"); \
	if (( written == 0 || 2 * written != listed )); then echo "$$written fuzz targets are written and $$((listed / 2)) are found" >&2; exit 1; fi; \
	log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
	while read -r package target; do \
		echo "$$package $$target"; \
		if ! $(GO) test -tags tools -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$package" </dev/null 2>&1 | tee "$$log"; then \
			if grep -q 'Failing input' "$$log" || ! grep -qx '    context deadline exceeded' "$$log"; then exit 1; fi; \
			echo "nothing found; the failure is Go's own"; \
		fi; \
	done <<<"$$targets"

docs/metrics.md: ## the page of metrics, from a running service
	$(GO) test -count=1 -run '^TestMetricsPage$$' ./test/start -write-metrics-page

image: ## container image attestcsr, with the first of docker, podman and buildah that works
	@for engine in docker podman buildah none; do if "$$engine" info >/dev/null 2>&1; then break; fi; done; \
	if [[ "$$engine" == none ]]; then echo "building an image needs docker (with its engine running), podman or buildah" >&2; exit 1; fi; \
	format=(); if [[ "$$engine" != docker ]]; then format=(--format docker); fi; \
	"$$engine" build "$${format[@]}" --build-arg VERSION=$(VERSION) -t attestcsr:$(or $(VERSION),latest) .
