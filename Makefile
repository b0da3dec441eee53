# Every command of this repository; `make` alone prints them.

# Run as modules: the first line of a console script breaks in a folder with a space in its name.
python := .venv/bin/python
sources := app coherent_cache graceful_gunicorn benchmarks dev tests migrations gunicorn_config.py
compile := $(python) -m uv pip compile --universal --generate-hashes --no-header -q \
	$(if $(UPGRADE),--upgrade) pyproject.toml
after_lock := Change pyproject.toml so that what is said above fits, then: make lock
or_say = || { echo "$(1)" >&2; exit 1; }

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help environment run dev profile connections memory test check faults bench fmt migrate migration flush-cache seed clean-data lock

##@ Run
run: environment ## Start everything: PostgreSQL, Valkey, demo data, the service
	@exec $(python) -m dev run

dev: environment ## The same, and the service reloads when a file of app/ changes
	@exec $(python) -m dev dev

##@ Look inside, while it runs
profile: environment ## Draw where a worker spends its time: profile.svg
	@$(python) -m dev profile

connections: environment ## Say who holds database connections, in which state, since when
	@$(python) -m dev connections

memory: environment ## Say what memory each worker takes
	@$(python) -m dev memory

##@ Check
test: environment ## Run the tests against a real PostgreSQL and Valkey
	@$(python) -m pytest -n auto --dist worksteal --cov

check: environment ## Format, lint, types and the import contracts
	@$(python) -m ruff format --check $(sources) $(call or_say,Run: make fmt)
	@$(python) -m ruff check $(sources) $(call or_say,Run make fmt: it corrects what can be.)
	@$(python) -m mypy $(sources) $(call or_say,Correct the types that mypy names above.)
	@$(python) -c 'from importlinter.cli import lint_imports_command as lint; lint()' --no-logo \
		$(call or_say,Move the import that breaks a contract: pyproject.toml says what may know what.)

faults: environment ## Break servers, workers and clients, and write what held to docs/faults.md
	@$(python) -m pytest tests/faults tests -m faults --faults --fault-table docs/faults.md -q

bench: environment ## Measure what each layer costs, and cached answers beside raw ones (needs wrk)
	@$(python) -m benchmarks.layers
	@$(python) -m benchmarks

fmt: environment ## Format, and correct what can be corrected without asking
	@$(python) -m ruff format $(sources)
	@$(python) -m ruff check --fix $(sources) $(call or_say,Correct the rest by hand.)

##@ Data
migrate: environment ## Bring the schema up to date
	@$(python) -m dev migrate

migration: environment ## Write a migration from the models: make migration m="add tags"
	@$(if $(m),,$(error Say what changes: make migration m="add tags to posts"))$(python) -m dev migration -m "$$m"

flush-cache: environment ## Empty the cache, after rows were changed by hand
	@$(python) -m dev flush-cache

seed: environment ## Fill the empty database with N posts: make seed N=1000000
	@$(python) -m dev seed $(if $(N),--posts "$$N")

clean-data: environment ## Remove the data of the embedded servers
	@$(python) -m dev clean-data

##@ Keep up
lock: environment ## Lock the dependencies again; UPGRADE=1 takes the newest versions
	@$(compile) -o requirements/app.txt $(call or_say,$(after_lock))
	@$(compile) --extra dev -c requirements/app.txt -o requirements/dev.txt $(call or_say,$(after_lock))

help: ## Print this
	@awk -F ':.*## ' '/^##@/ { print "\n" substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

# No file of make's own: a timestamp cannot tell that .venv was moved or that its Python is gone.
environment:
	@sh dev/environment.sh
