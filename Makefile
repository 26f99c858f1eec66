.PHONY: help test slow reliability exhaustive mutations lint format types docs check clean
help:  ## list the verbs
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10
test:  ## the fast tests
	python -m pytest -m "not slow"
slow:  ## what CI runs: fast and slow tests
	python -m pytest
reliability:  ## kills, mutated files and flipped bits in thousands: over an hour, goes on where it stopped
	python -m pytest --exhaustive -q $(if $(STUDY),--study $(STUDY)) -m exhaustive tests/reliability tests/fuzz
exhaustive:  ## every test that is left out of the others for its length: hours
	python -m pytest --exhaustive -q -m exhaustive
mutations:  ## one-line faults that the tests must notice: over an hour; WORDS="seeds lqr" for some files
	python -m tests.mutations.run $(WORDS)
lint:  ## style and format
	ruff check . && ruff format --check .
format:  ## mend what can be mended
	ruff check --fix . && ruff format .
types:  ## static types
	mypy
docs:  ## the pages and the reference as HTML, in docs/_build/html
	python -m sphinx -q -E -W --keep-going docs docs/_build/html
check:  ## everything CI does
	bash .ci/run
clean:  ## remove what builds and tests left
	rm -rf docs/_build docs/generated build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
