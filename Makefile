# The user interface of this repository: `make help`. CI calls some of its targets and nothing else (.ci/run).
# Whatever can be made again lives under build/. Every target does the set-up it needs, and does it once.

SHELL := /bin/bash
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
export PATH := $(PATH):/usr/sbin:/sbin

REQS   := tests/requirements
ROUTER := build/venv-router
NEWEST := build/venv-newest
STAGES ?=
SCENARIO ?=
ARGS ?=

.PHONY: help
help: ## this list
	@echo 'wgrouter: make TARGET. Needs make, Python 3.11 or newer and, the first time, root on Debian or a kin.'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

# ---- set-up -------------------------------------------------------------------------------------------------
# Two library sets: the oldest a supported router has, and the newest there is. A stamp says
# "done with these lists".

.PHONY: setup setup-vm
setup: build/stamps/apt $(ROUTER)/.complete $(NEWEST)/.complete ## Debian packages, both Python environments
setup-vm: setup build/stamps/apt-vm build/kernel/.complete ## the same, qemu, and Debian's kernel

build/stamps/apt: $(REQS)/apt.txt tests/tools/apt.sh
	@sh tests/tools/once.sh $@ $^ -- sh tests/tools/apt.sh $(REQS)/apt.txt

build/stamps/apt-vm: $(REQS)/apt-vm.txt tests/tools/apt.sh
	@sh tests/tools/once.sh $@ $^ -- sh tests/tools/apt.sh $(REQS)/apt-vm.txt

$(ROUTER)/.complete: $(REQS)/router.txt $(REQS)/test.txt tests/tools/venv.sh | build/stamps/apt
	@sh tests/tools/once.sh $@ $^ -- sh tests/tools/venv.sh $(ROUTER) $(REQS)/router.txt

$(NEWEST)/.complete: $(addprefix $(REQS)/,newest.txt test.txt tools.txt) tests/tools/venv.sh | build/stamps/apt
	@sh tests/tools/once.sh $@ $^ -- sh tests/tools/venv.sh $(NEWEST) $(REQS)/newest.txt

build/kernel/.complete: tests/vm/kernel.sh | build/stamps/apt-vm
	@sh tests/tools/once.sh $@ $^ -- sh tests/vm/kernel.sh build/kernel

# ---- checks and tests ---------------------------------------------------------------------------------------

.PHONY: check test lab vm vm-lab vm-bench bench demo homeassistant chaos soak ipk mutants format clean
check: setup ## style, types, architecture, generated files, language level, shell scripts (seconds)
	@$(NEWEST)/bin/python -m tests.tools.check

test: setup ## the whole suite on both library sets: unit, model, ports, lab, vm (minutes)
	@$(NEWEST)/bin/python -m tests.tools.suites $(STAGES)

lab: setup ## the scenarios in network namespaces, with their timelines
	$(NEWEST)/bin/python -m tests.lab $(SCENARIO)

vm: setup-vm ## the tests that need the kernel's WireGuard, on Debian's kernel in a virtual machine
	@$(NEWEST)/bin/python -m tests.vm $(ARGS)

vm-lab: setup-vm ## the whole lab in there, with the kernel's WireGuard (ARGS=--short: a quarter of it)
	@$(NEWEST)/bin/python -m tests.vm --lab $(ARGS)

vm-bench: setup-vm ## failover and names measured in there, beside what else there is (build/vm/bench/bench.json)
	@$(NEWEST)/bin/python -m tests.vm --bench $(ARGS)

bench: setup ## measure; writes build/bench.json (ARGS=--quick: three minutes, ARGS=failover: one group)
	@$(NEWEST)/bin/python -m tests.bench $(ARGS)

demo: setup ## show one scenario as it happens: make demo SCENARIO=name
	$(NEWEST)/bin/python -m tests.lab.demo $(SCENARIO)

chaos: setup ## random faults on the lab: three stories (ARGS='--seed 7 --faults 200': that one)
	@$(NEWEST)/bin/python -m tests.lab.chaos $(ARGS)

soak: setup ## does anything grow? 40 minutes in the lab (ARGS='--days 30': a month in simulated time)
	@$(NEWEST)/bin/python -m tests.lab.soak $(ARGS)

ipk: ## build the package for opkg under build/
	@python=$$(sh tests/tools/python.sh) && $$python package/build_ipk.py

homeassistant: setup ## Home Assistant itself finds, shows and commands a router (needs Python 3.13)
	@sh tests/tools/homeassistant.sh

mutants: setup ## change wgrouter/core here and there and see whether the tests notice: make mutants ARGS=--all
	$(NEWEST)/bin/python -m tests.tools.mutants $(ARGS)

fuzz: $(NEWEST)/.fuzz ## lead random bytes into the agent's doors: make fuzz ARGS='--minutes 10 --target dns'
	@$(NEWEST)/bin/python -m tests.fuzz $(ARGS)

$(NEWEST)/.fuzz: $(REQS)/fuzz.txt | setup
	@sh tests/tools/once.sh $@ $^ -- $(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check -r $<

format: setup ## write the code as `check` wants it
	$(NEWEST)/bin/python -m ruff check --fix-only --exit-zero wgrouter tests package
	$(NEWEST)/bin/python -m ruff format wgrouter tests package

clean: ## remove build/ (the next target sets up again)
	rm -rf build
