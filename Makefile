# The commands of this repository. `make` without a target lists them.

# Programs run as modules: console scripts break when the path of the clone contains a space.
python := .venv/bin/python
compile := $(python) -m uv pip compile --universal --generate-hashes --no-header --no-annotate -q \
	$(if $(UPGRADE),--upgrade) pyproject.toml
after_lock := Correct pyproject.toml as the error above says, then run: make lock
or_say = || { echo "$(1)" >&2; exit 1; }

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help environment environment-run environment-bench run dev profile connections memory jobs resource rename remove test test-fast check mutate faults bench quick fmt openapi client migrate migration admin flush-cache seed clean-data lock

##@ Run
run: environment-run ## Start PostgreSQL, Valkey, the service and a job worker, with demo data
	@exec $(python) -m dev run

dev: environment-run ## Like `make run`, with one process that reloads when the code changes
	@exec $(python) -m dev dev

##@ Inspect the running service
profile: environment-run ## Record a flame graph of the busiest worker: profile.svg
	@$(python) -m dev profile

connections: environment-run ## List the database connections by application and state
	@$(python) -m dev connections

memory: environment-run ## Show the memory of each worker
	@$(python) -m dev memory

jobs: environment-run ## List the jobs in the queue. Also: make jobs retry=ID, make jobs discard=ID
	@$(python) -m dev jobs $(if $(retry),retry $$retry) $(if $(discard),discard $$discard)

##@ Make it yours
resource: environment ## Add a resource: make resource name=invoices [kind=public] [singular=invoice]
	@$(if $(name),,$(error Name the resource: make resource name=invoices))$(python) -m dev resource "$$name" \
		$(if $(kind),--kind "$$kind") $(if $(singular),--singular "$$singular")

rename: environment ## Rename the project: make rename name=order-desk
	@$(if $(name),,$(error Give the new name: make rename name=order-desk))$(python) -m dev rename "$$name" \
		$(if $(template),--template "$$template")

remove: environment ## Remove a feature: make remove name=comments
	@$(if $(name),,$(error Name the feature: make remove name=comments))$(python) -m dev remove "$$name"

##@ Check
test: environment ## Run the tests (20 to 60 minutes), with a real PostgreSQL and Valkey
	@$(python) -m pytest -n auto --dist worksteal --cov

test-fast: environment ## Run the quick tests of the features, and rules for all routes (30 s)
	@$(python) -m pytest -n auto --dist worksteal -q -m "not slow" tests/features \
		$(addprefix tests/contract/test_,$(addsuffix .py,architecture account_deletion conditions openapi stack))

check: environment ## Run all tools on the code: format, lint, types, import contracts
	@$(python) -m dev.check

mutate: environment ## Break each function once, and list what no test notices (hours; goes on where it ended). Also: make mutate only=coherent_cache
	@$(python) -m dev.mutate $(if $(only),--only "$$only") $(if $(each),--each $(each)) \
		$(if $(minutes),--minutes $(minutes)) $(if $(seconds),--seconds $(seconds))

faults: environment ## Write docs/faults.md (more than an hour; needs HAProxy, nginx, PgBouncer)
	@$(python) -m pytest tests/faults tests -m faults --faults --fault-table docs/faults.md -q; \
		status=$$?; $(python) -m benchmarks.figures && exit $$status

bench: environment-bench ## Measure everything, and write docs/benchmarks.md. Also: make bench quick, only="ladder cache"
	@$(python) -m benchmarks $(if $(filter 1 quick,$(quick) $(MAKECMDGOALS)),--quick) $(if $(posts),--posts $(posts)) $(only)

quick: bench # a word after `make bench`
	@:

fmt: environment ## Format, and correct lint errors where that is safe
	@$(python) -m ruff format
	@$(python) -m ruff check --fix $(call or_say,Correct the errors above by hand.)

##@ The API
openapi: environment ## Write the API document, after an intended change: tests/contract/openapi.json
	@$(python) -m dev openapi

client: environment ## Generate a typed Python client: clients/python
	@$(python) -m dev client

##@ Data
migrate: environment-run ## Bring the database schema up to date
	@$(python) -m dev migrate

migration: environment ## Create a migration from the models: make migration m="add tags"
	@$(if $(m),,$(error Describe the change: make migration m="add tags to posts"))$(python) -m dev migration -m "$$m"

admin: environment-run ## Make an account an administrator: make admin email=ada@example.com
	@$(if $(email),,$(error Name the account: make admin email=ada@example.com))$(python) -m dev admin $(if $(filter 1,$(verified)),--verified) -- "$$email"

flush-cache: environment-run ## Empty the cache, for example after a manual change of rows
	@$(python) -m dev flush-cache

seed: environment-run ## Fill an empty database with demo data of any size: make seed N=1000000
	@$(python) -m dev seed $(if $(N),--size "$$N")

clean-data: environment-run ## Delete the data of the embedded servers (.data)
	@$(python) -m dev clean-data

##@ Dependencies
lock: environment ## Update the lock files; UPGRADE=1 takes the newest versions
	@$(compile) -o requirements/app.txt $(call or_say,$(after_lock))
	@$(compile) --extra run -c requirements/app.txt -o requirements/run.txt $(call or_say,$(after_lock))
	@$(compile) --extra run --extra dev -c requirements/run.txt -o requirements/dev.txt \
		$(call or_say,$(after_lock))
	@$(compile) --extra run --extra dev --extra bench -c requirements/dev.txt -o requirements/bench.txt \
		$(call or_say,$(after_lock))

help: ## List the commands
	@awk -F ':.*## ' '/^##@/ { print "\n" substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

# These are no file targets: a timestamp does not show that .venv was moved or its Python removed.
environment:
	@sh dev/environment.sh dev

environment-run:
	@sh dev/environment.sh run

environment-bench:
	@sh dev/environment.sh bench
