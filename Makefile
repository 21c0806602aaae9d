# make venv     the development environment, .venv
# make quick    unit and integration tests on SQLite, in parallel, without random explorations and the commands of the
#               documents; within two minutes
# make test     all tests on every database that this machine has; make test ARGS="-k claim" narrows
# make check    formatting, lint, layers, types, missing migrations
# make docs     builds the site, docs/_build, and checks its links
# make wheel    builds both packages twice, compares and checks them, and tries the wheel
# make bench-far  this outbox and bare aiosmtplib against a Postfix at the end of a line of 50 ms
# make bench-latency  from enqueue to accepted with a loop, on three databases
# make soak     the simulation for an hour; make soak ARGS="--seconds 600 --seed 7", ARGS="--only 7"
# make messages writes the Japanese catalogue anew; translate what is empty or fuzzy, then run it again
# make matrix   unit and integration tests on every supported Python and Django
# make demo     sends messages through a local mail server and prints what happens; make serve runs the example shop
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

# Tests start hundreds of processes; each would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: venv .venv quick test check docs format messages matrix demo serve bench bench-far bench-latency soak test-servers wheel clean

venv: .venv/.ready

.venv: .venv/.ready

# Two processes for each processor, since tests wait.  An idle process takes over tests of a busy one (worksteal): some
# tests take a second, most take a millisecond.
quick: .venv/.ready
	DATABASE=sqlite $(BIN)/python -W error -m pytest -q -n $$($(BIN)/python -c 'import os; print(2 * os.cpu_count())') --dist worksteal -m "not stateful and not long" --ignore tests/integration/test_drain_at_random.py tests/unit tests/integration $(ARGS)

test: .venv/.ready
	$(BIN)/python scripts/test.py $(ARGS)

check: .venv/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy
	DATABASE_NAME=:memory: $(BIN)/python -W error -m django makemigrations --check --dry-run --settings tests.settings prx_email_django
	DATABASE_NAME=:memory: $(BIN)/python -W error -m django check --fail-level WARNING --settings tests.settings

# Links and references that lead nowhere, and pages in no toctree, are errors.
docs: .venv/.ready
	$(BIN)/python -m sphinx -q -W --keep-going -n -b html docs docs/_build

# Needs Debian's gettext.
messages: .venv/.ready
	cd prx_email_django && ../$(BIN)/django-admin makemessages --locale ja --no-location --no-obsolete
	cd prx_email_django && ../$(BIN)/django-admin compilemessages --locale ja

format: .venv/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

matrix: .venv/.ready
	$(BIN)/nox $(ARGS)

demo: .venv/.ready
	$(BIN)/python example_project/run_demo.py $(ARGS)

serve: .venv/.ready
	$(BIN)/python example_project/serve.py $(ARGS)

bench: .venv/.ready
	$(BIN)/python scripts/bench.py $(ARGS)

# As root, with Postfix.
bench-far: .venv/.ready
	$(BIN)/python scripts/bench_far.py $(ARGS)

bench-latency: .venv/.ready
	$(BIN)/python scripts/bench_latency.py $(ARGS)

soak: .venv/.ready
	$(BIN)/python -W error -m tests.simulation --seconds 3600 $(ARGS)

test-servers: .venv/.ready
	$(BIN)/python -W error -m pytest tests/servers $(ARGS)

wheel: .venv/.ready
	$(BIN)/python scripts/wheel.py $(ARGS)

clean:
	rm -rf .venv .nox build dist docs/_build .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

.venv/.ready: pyproject.toml constraints.txt scripts/venv.sh
	sh scripts/venv.sh $(PYTHON)
	touch $@
