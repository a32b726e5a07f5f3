# The verbs of this project. `make` alone lists them.
#
# You need make, bash and Python 3.11 or newer. Everything else is installed into .venv. `make build`
# needs Python 3.13, because the functions run on 3.13 and the build compiles for it.
# `PYTHON=python3.11` names another interpreter, `VENV=.venv-3.11` another folder than .venv.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
PARAMETERS ?=
ENVIRONMENT ?= production
ARCHITECTURE ?= arm64
BUILD_DIR ?= .aws-sam/build
KEEP ?= 3
LOGS ?= keep

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PYTHONS ?= 3.11 3.12 3.13
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
REQUIREMENTS := $(filter-out %/checkov.txt %/deploy-test.txt %/sam-local.txt,$(wildcard requirements/*.txt)) \
	layers/common/requirements.txt standin/requirements.txt $(wildcard functions/*/requirements.txt)
CHECKOV := $(VENV)/checkov/bin/checkov
# Node's tools, which read the OpenAPI document. Only checks and tests need them.
NODE := $(VENV)/node/.installed
NODE_BIN := $(VENV)/node/node_modules/.bin
# Lighthouse, which only `make pages-judge` needs.
LIGHTHOUSE := $(VENV)/pages-judge/.installed
CODE := layers functions local standin deploy clients tests bench docs

# A file that is named runs in this process: to start others takes longer than most files do.
IN_PARALLEL := -n auto --dist loadfile --no-loadscope-reorder
# Checks run at the same time; what each of them prints stays together (macOS' make cannot do that).
OUTPUT_TOGETHER := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

export SAM_CLI_TELEMETRY := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Python keeps what it compiles, whatever the caller's environment says: each test worker and each
# function that starts would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

##@ Try it
.PHONY: run debug demo standin
run: $(STAMP)-run  ## start everything: http://127.0.0.1:3000 (CATALOGUE=plans.yaml CURRENCY=eur ARGS=--help)
	@$(BIN)/python -m local run $(ARGS)

debug: $(STAMP)-debug  ## start everything, and have one function wait for a debugger (function=track_usage)
	@$(BIN)/python -m local run --debug $(or $(function),$(error Say which: make debug function=track_usage)) $(ARGS)

demo: $(STAMP)-run  ## run the whole story over HTTP, from sign-up to the last bill, and check every step
	@$(BIN)/python -m local demo

standin: $(STAMP)-run  ## start only the stand-in for Commet: http://127.0.0.1:8100 (ARGS=--help)
	@$(BIN)/python -m standin $(ARGS)

##@ Look into it while it runs
WHY = $(if $(author),--author "$(author)") $(if $(note),--note "$(note)")
.PHONY: logs show redrive sweep compare resolve resolve-dispute repair endpoints enable-endpoint redeliver \
	forgive refund adopt erase end-sessions \
	verify-address free-address
logs: $(STAMP)-run  ## show the log lines of an answer, or all that name something (id=..., usr_..., whev_...)
	@$(BIN)/python -m local logs $(if $(id),-- "$(id)")

show: $(STAMP)-run  ## show one user: rows, webhooks, what the next run will do (user=usr_... or an email address)
	@$(BIN)/python -m local show $(if $(user),"$(user)",$(error Say which: make show user=usr_...))

redrive: $(STAMP)-run  ## try dead webhooks again, or parked deliveries (what=deliveries, user=, id=, author=, note=)
	@$(BIN)/python -m local redrive $(or $(what),webhooks) $(if $(id),--id "$(id)") $(if $(user),--user "$(user)") $(WHY)

sweep: $(STAMP)-run  ## have reconcile read every subscription at Commet again (author=, note=)
	@$(BIN)/python -m local sweep $(WHY)

compare: $(STAMP)-run  ## have reconcile compare all totals with Commet's now (author=, note=)
	@$(BIN)/python -m local compare $(WHY)

resolve: $(STAMP)-run  ## take a parked delivery off the list (user=usr_..., id=, author=, note=, delivered=1 if Commet has it)
	@$(BIN)/python -m local resolve "$(user)" "$(id)" --note "$(note)" $(if $(author),--author "$(author)") $(if $(delivered),--delivered)

resolve-dispute: $(STAMP)-run  ## end a dispute whose webhook was lost (user=usr_..., transaction=txn_..., outcome=won, author=, note=)
	@$(BIN)/python -m local resolve-dispute "$(user)" "$(transaction)" "$(outcome)" $(WHY)

repair: $(STAMP)-run  ## replace Commet's totals by ours where they differ: all, or those of one user (user=usr_..., author=, note=)
	@$(BIN)/python -m local repair $(if $(user),--user "$(user)") $(WHY)

endpoints: $(STAMP)-run  ## list the endpoints of events: on or off, failing, since when an event waits (author=, note=)
	@$(BIN)/python -m local endpoints $(WHY)

enable-endpoint: $(STAMP)-run  ## switch an endpoint of events on again (endpoint=ep_..., author=, note=)
	@$(BIN)/python -m local enable-endpoint "$(endpoint)" $(WHY)

redeliver: $(STAMP)-run  ## send events to an endpoint again (endpoint=ep_..., from=time, to=time or now; or event=, author=, note=)
	@$(BIN)/python -m local redeliver "$(endpoint)" $(if $(event),--event "$(event)") $(if $(from),--from "$(from)") $(if $(to),--to "$(to)") $(WHY)

forgive: $(STAMP)-run  ## end a debt that a user need not pay (user=usr_..., debt=7 or all, author=, note=)
	@$(BIN)/python -m local forgive "$(user)" "$(debt)" --author "$(author)" --note "$(note)"

refund: $(STAMP)-run  ## give a payment back, whole (transaction=txn_..., link=7, author=, note=)
	@$(BIN)/python -m local refund "$(transaction)" $(if $(link),--link "$(link)") $(WHY)

adopt: $(STAMP)-run  ## give a customer of Commet to a user (user=usr_..., customer=cus_..., author=, note=)
	@$(BIN)/python -m local adopt "$(user)" "$(customer)" --author "$(author)" --note "$(note)"

end-sessions: $(STAMP)-run  ## end all sessions of a user (user=usr_..., author=, note=)
	@$(BIN)/python -m local end-sessions "$(user)" --author "$(author)" --note "$(note)"

verify-address: $(STAMP)-run  ## count an address as confirmed (user=usr_..., address= if another one, author=, note=)
	@$(BIN)/python -m local verify-address "$(user)" $(if $(address),--address "$(address)") --author "$(author)" --note "$(note)"

free-address: $(STAMP)-run  ## take the address from an account, for another one (user=usr_..., author=, note=)
	@$(BIN)/python -m local free-address "$(user)" --author "$(author)" --note "$(note)"

erase: $(STAMP)-run  ## erase a user (user=usr_..., author=, note=who asked for it)
	@$(BIN)/python -m local erase "$(user)" --author "$(author)" --note "$(note)"

##@ Work on it
.PHONY: function
function: $(STAMP)-dev  ## write a metered route of your own, with test and template (name=summarize feature=storage)
	@$(BIN)/python -m local.new_function "$(or $(name),$(error Say which: make function name=summarize))" \
		$(if $(feature),--feature "$(feature)")
	@$(BIN)/python -m local.openapi --write
	@$(BIN)/python -m deploy.costs --write
	@echo
	@echo "Next: your part is 'work' in functions/$(name)/app.py. It counts as usage of the feature"
	@echo "$(or $(feature),storage), which your catalogue must have. Stop and start 'make run', and call POST /$(subst _,-,$(name))."
	@echo "After a change: make openapi && make test ARGS=tests/integration/functions/test_$(name).py"
	@echo "More is in docs/build-your-own.md."

.PHONY: test test-pythons test-postgres pages-judge screenshots prove mutate sam-local-test deploy-test check format openapi bench bench-sustained
test: $(STAMP)-dev $(if $(findstring .py,$(ARGS)),,node-tools)  ## all tests: unit, contract, integration on a real Postgres, end to end
	@$(BIN)/pytest $(if $(findstring .py,$(ARGS)),,$(IN_PARALLEL)) $(ARGS)

test-pythons:  ## demo, unit and handler tests on each Python that is found (PYTHONS="3.11 3.12")
	@tests/pythons.sh $(PYTHONS)

test-postgres: $(STAMP)-dev  ## the functions' connection on each Postgres that is found, odd settings, pooler, stops (needs pgbouncer)
	@tests/postgres/fetch.sh
	@PYTHONPATH=.:layers/common $(BIN)/pytest tests/postgres/moving.py $(ARGS)

pages-judge: $(STAMP)-dev node-tools $(LIGHTHOUSE)  ## the pages in every state, by axe, keyboard and Lighthouse (needs Chromium and Node, ten minutes; PICTURES=folder takes pictures)
	@$(if $(PICTURES),PICTURES=$(abspath $(PICTURES))) $(BIN)/pytest $(or $(ARGS),$(addprefix tests/pages_judge/,$(if $(PICTURES),states.py,manners.py states.py speed.py)))

screenshots: $(STAMP)-dev  ## take the pictures of the pages in docs/images again (needs Chromium)
	@$(BIN)/pytest tests/pages_judge/pictures.py

prove: $(STAMP)-dev node-tools  ## the long proofs at full size: concurrency, crashes, random histories, requests, builds (minutes)
	@PROOF=full $(BIN)/pytest tests/proof tests/standin/unit/test_life_cycles.py tests/e2e/stack/test_openapi.py \
		tests/e2e/test_build_your_own.py tests/e2e/test_build.py $(ARGS)

mutate: $(STAMP)-dev  ## put known faults in one by one: a test has to notice each (ARGS="--only NAME", --list)
	@$(BIN)/python -m tests.mutants $(ARGS)

sam-local-test: $(STAMP)-dev  ## run docs/sam-local.md on a Docker engine, or on Debian's (needs root, takes three minutes)
	@PYTHONPATH=.:layers/common $(BIN)/python -m tests.samlocal
	@$(BIN)/pytest tests/samlocal/interrupted.py $(ARGS)

deploy-test: $(STAMP)-dev  ## deploy, update, break, rotate and delete a stack in an AWS emulator (Linux, four minutes)
	@PYTHONPATH=.:layers/common $(BIN)/python -m tests.deployed
	@$(BIN)/pytest tests/deployed/interrupted.py $(ARGS)

CHECKS := formatting lint types imports template database security openapi openapi-lint
check: $(STAMP)-dev $(CHECKOV) node-tools  ## formatting, lint, types, import rules, templates, OpenAPI document
	@$(MAKE) --jobs=4 --keep-going $(OUTPUT_TOGETHER) $(CHECKS:%=check-%)

.PHONY: $(CHECKS:%=check-%)
check-formatting:
	@$(BIN)/ruff format --check $(CODE)
check-lint:
	@$(BIN)/ruff check --no-cache $(CODE)
check-types:
	@$(BIN)/mypy
check-imports:
	@PYTHONPATH=.:layers/common:clients/python $(BIN)/lint-imports --no-cache --config pyproject.toml
# This is cfn-lint, too: it reads template.yaml here and database.yaml below.
check-template:
	@AWS_DEFAULT_REGION=eu-central-1 $(BIN)/sam validate --lint
check-database:
	@$(BIN)/cfn-lint --regions eu-central-1 --template database.yaml
check-security:
	@$(CHECKOV)
check-openapi:
	@$(BIN)/python -m local.openapi --check
check-openapi-lint: node-tools
	@if [ -f $(NODE) ]; then \
		REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true $(NODE_BIN)/redocly lint \
			--config tests/openapi/redocly.yaml --format summary docs/openapi.json 2>&1 | \
			sed '/validating/,$$!d;/^$$/d' && \
		$(NODE_BIN)/spectral lint --ruleset tests/openapi/spectral.yaml --fail-severity warn docs/openapi.json; fi

format: $(STAMP)-dev  ## format the code
	@$(BIN)/ruff check --fix --quiet $(CODE) || true
	@$(BIN)/ruff format --quiet $(CODE)

openapi: $(STAMP)-dev  ## write docs/openapi.json, docs/problems.md and what /docs serves from the code
	@$(BIN)/python -m local.openapi --write

bench: $(STAMP)-dev  ## measure cold starts, the stand-in, pages, webhooks, usage and its delivery, each beside a baseline
	@$(BIN)/python -m bench.cold_start
	@$(BIN)/python -m bench.commet_standin
	@$(BIN)/python -m bench.pages
	@PYTHONPATH=.:layers/common $(BIN)/python -m bench.webhooks
	@PYTHONPATH=.:layers/common $(BIN)/python -m bench.inbox_size
	@PYTHONPATH=.:layers/common $(BIN)/python -W ignore -m bench.usage
	@PYTHONPATH=.:layers/common $(BIN)/python -W ignore -m bench.delivery
	@PYTHONPATH=.:layers/common $(BIN)/python -W ignore -m bench.ledger_size --plot docs/ledger-growth.svg

bench-sustained: $(STAMP)-dev  ## load the local stack for ten minutes: latency, memory, deliveries, sums (ARGS="--minutes 2")
	@$(BIN)/python -m bench.sustained $(ARGS)

##@ Deploy it
.PHONY: build build-id deploy prune delete release
build: $(STAMP)-run  ## build the functions and the layer for `sam deploy` (ARCHITECTURE=x86_64)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13) and \
		"make build needs Python 3.13: make build VENV=.venv-3.13 PYTHON=/path/to/python3.13")'
	@PATH="$(abspath $(BIN)):$$PATH" AWS_DEFAULT_REGION=$${AWS_DEFAULT_REGION:-eu-central-1} \
		$(BIN)/sam build --cached --parallel --build-dir $(BUILD_DIR) --cache-dir $(BUILD_DIR)-cache \
		--parameter-overrides Architecture=$(ARCHITECTURE) $(ARGS)
	@echo "Compiling for the runtime: with .pyc files imports take a third less of a cold start."
	@$(BIN)/python -m compileall -q -j 0 --invalidation-mode unchecked-hash $(BUILD_DIR)

build-id:  ## print the digest that `sam deploy` needs as BuildId (PARAMETERS="A=b ...")
	@$(PYTHON) deploy/build_id.py $(PARAMETERS)

deploy: $(STAMP)-run  ## deploy: say what it will do and cost, ask, then do it (DRY_RUN=1 only says it)
	@$(BIN)/python -m deploy up --environment $(ENVIRONMENT) $(if $(DRY_RUN),--dry-run) \
		$(if $(YES),--yes) $(PARAMETERS)

prune: $(STAMP)-run  ## delete old versions of functions and layers (KEEP=3, DRY_RUN=1)
	@$(BIN)/python -m deploy prune --environment $(ENVIRONMENT) --keep $(KEEP) $(if $(DRY_RUN),--dry-run)

delete: $(STAMP)-run  ## delete the stack; data and logs stay (LOGS=delete deletes the logs, too)
	@$(BIN)/python -m deploy delete --environment $(ENVIRONMENT) --logs $(LOGS) $(if $(YES),--yes)

release: $(STAMP)-dev  ## record the SQL and the events' schemas of this version, before you tag it (VERSION=0.1.0)
	@PYTHONPATH=.:layers/common $(BIN)/python -m deploy.release $(VERSION)

##@ Housekeeping
.PHONY: setup clean help
setup: $(STAMP)-dev  ## install everything that the other verbs need

clean:  ## remove caches and builds (.venv* and your data in .local stay)
	@rm -rf .aws-sam .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

help:
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*##/ {printf "  \033[36m%-14s\033[0m %s\n", $$1, $$2}' Makefile | \
		if [ -t 1 ] && [ -z "$${NO_COLOR:-}" ]; then cat; else sed 's/\x1b\[[0-9;]*m//g'; fi
	@echo

$(CHECKOV): requirements/checkov.txt | $(STAMP)-dev
	@echo "Installing checkov into an environment of its own (about a minute, only once):"
	@rm -rf $(VENV)/checkov && $(BIN)/python -m venv $(VENV)/checkov
	@$(VENV)/checkov/bin/python -m pip install --no-input -r $< > $(VENV)/checkov.log 2>&1 || { \
		tail -n 30 $(VENV)/checkov.log; rm -rf $(VENV)/checkov; exit 1; }
	@touch $@

.PHONY: node-tools
node-tools:
	@new_enough='const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)'; \
	if node -e "$$new_enough" 2> /dev/null && command -v npm > /dev/null; then $(MAKE) --silent $(NODE); \
	else echo "Skipped: the OpenAPI linters and the TypeScript client need Node 20.19 or newer, with npm."; fi

$(NODE): tests/openapi/package.json tests/openapi/package-lock.json
	@echo "Installing Node's tools into $(VENV)/node (half a minute, only once):"
	@mkdir -p $(VENV)/node && cp tests/openapi/package.json tests/openapi/package-lock.json tests/openapi/.npmrc $(VENV)/node
	@cd $(VENV)/node && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(LIGHTHOUSE): $(addprefix tests/pages_judge/,package.json package-lock.json .npmrc)
	@echo "Installing Lighthouse into $(VENV)/pages-judge (half a minute, only once):"
	@mkdir -p $(@D) && cp $^ $(@D)
	@cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(STAMP)-%: requirements/%.txt $(REQUIREMENTS) | same-python
	@if [ -z "$(PYTHON)" ]; then \
		echo "This needs Python 3.11 or newer. Install it, or say where it is: make PYTHON=/path/to/python3"; \
		exit 1; fi
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "This Python cannot make a virtual environment. On Debian and Ubuntu: apt install python3-venv"; \
		exit 1; }
	@echo "Installing what 'make $*' needs into $(VENV) (about a minute, only once):"
	@$(BIN)/python -m pip install --no-input -r $< -c requirements/constraints.txt 2>&1 | \
		tee $(VENV)/pip.log | { while read -r word rest; do case $$word in Collecting) printf .;; esac; done; echo; } || \
		{ grep -v '^\(Collecting\|Downloading\|  \)' $(VENV)/pip.log | tail -n 30; exit 1; }
	@touch $@

# If PYTHON names an interpreter, $(VENV) must have the same one.
.PHONY: same-python
same-python:
ifneq ($(origin PYTHON),file)
	@version() { "$$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }; \
	if [ -x $(BIN)/python ]; then \
		wanted=$$(version "$(PYTHON)"); there=$$(version $(BIN)/python); \
		if [ "$$wanted" != "$$there" ]; then \
			echo "$(VENV) has Python $$there, and PYTHON=$(PYTHON) is Python $$wanted." \
				"Use another place beside it: VENV=.venv-$$wanted PYTHON=$(PYTHON)"; \
			exit 1; fi; fi
endif
