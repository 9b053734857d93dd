# The commands anyone needs. `make run` and `make test` need nothing but Python 3.11 or newer; what they install stays in
# .venv, what they write in var.
.DEFAULT_GOAL := help
.PHONY: help openapi install run dev up roll down ps logs load bench chaos test test-bench test-compose fuzz check format clean

PYTHON ?= python3
VENV ?= .venv
# Which build of torch: the CPU's, 0.2 GB. For a GPU an index of CUDA builds, and a new .venv if there is one already.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

N ?= 3

help: ## Show these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- without Docker ---------------------------------------------------------------------------------------------------
run: $(VENV)/.local ## Run the whole stack without Docker or root (N=3 replicas, PORT=8080, PROMETHEUS_PORT=9090, VAR=var)
	@N=$(N) $(VENV)/bin/python -m api.local

# --- with Docker ------------------------------------------------------------------------------------------------------
up: ## Start everything in containers and wait until a prediction is possible (N=3 replicas)
	docker compose up --detach --build --wait --scale api=$(N)

dev: ## The same in the foreground; an edit of the code rebuilds the replicas
	docker compose up --build --watch --scale api=$(N)

roll: ## Deploy what is here to the containers, replica by replica, without a lost request
	api/roll

down: ## Stop the containers; predictions and cache are kept (docker compose down -v deletes them)
	docker compose down

ps: ## Show the containers and their health
	docker compose ps

logs: ## Follow the logs of the containers
	docker compose logs --follow --tail 100

# --- both -------------------------------------------------------------------------------------------------------------
load: $(VENV)/.local ## Put load on whichever runs, with a verdict (SCENARIO=zipf MODEL=penguins USERS=50 DURATION=30s HOST=http://…)
	$(VENV)/bin/python -m loadtest --scenario "$(SCENARIO)" --model "$(MODEL)" --users "$(USERS)" --duration "$(DURATION)" --host "$(HOST)"

bench: $(VENV)/.local ## Measure Shoal against a ceiling, a tutorial and nginx alone; needs wrk (ROUNDS=5 SECONDS=3 ONLY=penguins,log CHART=chart.svg)
	$(VENV)/bin/python -m loadtest.bench --rounds "$(ROUNDS)" --seconds "$(SECONDS)" --connections "$(CONNECTIONS)" --only "$(ONLY)" --sizes "$(SIZES)" --chart "$(CHART)"

chaos: $(VENV)/.local ## Break everything that Shoal promises to outlive, under load, with a verdict (QUICK=1 ONLY=overload STACK=compose DURATION=30m)
	$(VENV)/bin/python -m loadtest.chaos --stack "$(STACK)" --quick "$(QUICK)" --only "$(ONLY)" --duration "$(DURATION)"

# --- development ------------------------------------------------------------------------------------------------------
install: $(VENV)/.dev ## Create .venv with all that is pinned (TORCH_INDEX= for a GPU build); the others do it by themselves

test: $(VENV)/.dev ## Run all tests, against real servers they start (ARGS="tests/unit -x")
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

test-bench: $(VENV)/.dev ## Run the benchmark for a second a round, to see that it measures what it says (needs wrk)
	$(VENV)/bin/python -m pytest tests/system/bench

test-compose: $(VENV)/.dev ## Run the containers through their bad days, in a project of their own (minutes; needs Docker)
	$(VENV)/bin/python -m pytest tests/system/compose

fuzz: $(VENV)/.dev ## Send the API what schemathesis makes of its description, and see it refuse what is wrong (CASES=20000 SEED=)
	$(VENV)/bin/python -m tests.system.fuzz --cases "$(CASES)" --seed "$(SEED)"

check: $(VENV)/.dev ## What CI runs before the tests: lint, format, types, and files that must agree with each other
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest -q tests/contract

openapi: $(VENV)/.dev ## Write the snapshot of the API's description anew, after a change of it on purpose
	$(VENV)/bin/python -m tests.contract.test_openapi

format: $(VENV)/.dev ## Format the code, and fix what can be fixed without thinking
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## Delete what was made here: state of `make run` (its predictions too), reports, caches; .venv stays
	rm -rf var reports .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# --- the virtual environment ------------------------------------------------------------------------------------------
# Each file says that its requirements are installed, and is older than them when they change.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Shoal needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; choose another with PYTHON=")'
	$(PYTHON) -m venv $(VENV)

# torch first and alone: requirements-torch.txt says why.
$(VENV)/.torch: requirements-torch.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --retries 0 --index-url $(TORCH_INDEX) -r requirements-torch.txt
	@touch $@

$(VENV)/.local: requirements.txt requirements-local.txt $(VENV)/.torch
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-local.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.local
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
