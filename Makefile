# The commands of CONTRIBUTING.md.
CPP := $(wildcard csrc/*.cpp csrc/*.h csrc/*/*.cpp csrc/*/*.h csrc/*/*.cu csrc/*/*.cuh)

.PHONY: help setup test test-all lint format docs bench-check

help:  ## list these commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

setup:  ## build in place, with all that the commands below need; again after a change in csrc/
	pip install -e ".[dev,docs]"

test:  ## the tests that take less than about five seconds each
	pytest -m "not slow"

test-all:  ## every test, in two processes
	pytest -n 2

lint:  ## ruff, clang-format and mypy; changes nothing
	ruff check .
	ruff format --check .
	clang-format --dry-run --Werror $(CPP)
	mypy

format:  ## format Python and C++
	ruff check --fix .
	ruff format .
	clang-format -i $(CPP)

docs:  ## build the pages; a broken link is an error
	mkdocs build --strict

bench-check:  ## measure the ops against their floors, on an idle machine
	python bench/ratios.py --check
