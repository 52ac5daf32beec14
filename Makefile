# Each target installs what it needs into .venv, torch first, and is quick the second time.

PYTHON ?= python3
PROMPT ?= a dog running in the park
SEED ?= 7
export PROMPT

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

# A stamp is the last line of its recipe: an installation that failed is tried again.
RUNTIME := $(VENV)/runtime.stamp
DEV := $(VENV)/dev.stamp
PROTO := src/rushes/server/proto/rushes/v1/videos.proto

.PHONY: help setup demo test check format bench bench-peers profile-demo docs parity judge judge-full bench-scheduling bench-engine bench-report bench-reuse bench-edits chaos serve-demo bench-service soak audit proto clean

help:  ## what each target does
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1: /p' Makefile

setup: $(RUNTIME)  ## install the runtime packages and those of the service into .venv, and nothing else

demo: $(RUNTIME)  ## write demo.mp4 (and demo.png, six of its frames) from PROMPT="..." and SEED=7, print its path last
	@$(BIN)/rushes generate "$$PROMPT" --preset fast --seed $(SEED) --output demo.mp4 --sheet demo.png

test: $(DEV)  ## every test; its first lines say which servers are there to test with, the last which were started
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: $(DEV)  ## lint, format, types, import contracts, pinned versions
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m tools.audit --pins

format: $(DEV)  ## mend what `check` would say about format
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: $(RUNTIME)  ## cold start, first frame, end to end, latency under load, quality: on this machine
	@$(BIN)/rushes bench --requests 4 --clips 3 --output bench.json

bench-peers: $(DEV)  ## a tiny A14B in turn with diffusers, on this machine
	@rm -rf build/tiny && $(BIN)/rushes make-checkpoint build/tiny --tiny a14b >/dev/null
	@$(BIN)/rushes bench --model build/tiny --width 128 --height 128 --num-frames 17 --peer diffusers --part pairs --part quality

profile-demo: $(RUNTIME)  ## where a clip of the toy spends its time on this machine, as a page: profile-demo.html
	@$(BIN)/rushes profile "$$PROMPT" --preset fast --num-frames 17 --repeats 1 --seed $(SEED) -o profile-demo.html -o profile-demo.json

docs: $(DEV)  ## run the examples of README.md and docs/
	@$(BIN)/python -m pytest tests/test_docs.py

parity: $(DEV)  ## the table of errors against diffusers
	@$(BIN)/python -m benchmarks.parity

judge: $(RUNTIME)  ## score 24 clips of the toy model on this machine
	@$(BIN)/python -m benchmarks.judge

judge-full: $(RUNTIME)  ## make the whole table (needs a GPU)
	@$(BIN)/python -m benchmarks.judge --full

bench-scheduling: $(RUNTIME)  ## simulated load on one H200: our scheduler against first come, first served
	@$(BIN)/python -m benchmarks.scheduling

bench-engine: $(RUNTIME)  ## the engine with the toy on this machine: its overhead, and eight jobs at once
	@$(BIN)/python -m benchmarks.engine

bench-report: $(RUNTIME)  ## every stored speed figure in one table, a fresh sample on this CPU, and whether the goals are met
	@$(BIN)/python -m benchmarks.bench_report

bench-reuse: $(DEV)  ## two workloads with reuse: shares of hits, waiting, device time, eviction; 10 minutes
	@$(BIN)/python -m benchmarks.reuse

bench-edits: $(DEV)  ## how soon an edit shows its first frame, beside a fresh clip, and what the audits see; 5 minutes
	@$(BIN)/python -m benchmarks.reuse_edits && $(BIN)/python -m benchmarks.reuse_audits -o benchmarks/results/reuse_audits_cpu.json

chaos: $(RUNTIME)  ## kill workers 50 times, at every point of a job's life
	@$(BIN)/python -m benchmarks.chaos

serve-demo: $(RUNTIME)  ## the service with the toy: one video through HTTP, its first frames timed; STAY=--stay keeps the studio open
	@$(BIN)/python -m benchmarks.serve_demo --prompt "$$PROMPT" $(STAY)

bench-service: $(RUNTIME)  ## what the service adds to the engine: overhead, first fragment, 200 streams, reads, downloads
	@$(BIN)/python -m benchmarks.service

soak: $(RUNTIME)  ## ten minutes under load with kills of gateway and worker, cancels and dropped clients: nothing lost, no leak
	@$(BIN)/python -m benchmarks.soak

audit: $(DEV)  ## known vulnerabilities of the installed packages, as PyPI knows them; status 3 where it cannot be asked
	@$(BIN)/python -m tools.audit

proto: $(DEV)  ## make the Python modules of the gRPC service from its .proto file
	@$(BIN)/python -m grpc_tools.protoc -Isrc --python_out=src --pyi_out=src --grpc_python_out=src $(PROTO)

clean:  ## remove the environment and what the targets wrote
	rm -rf $(VENV) demo.mp4 demo.png demo.partial.mp4 serve-demo.mp4 dog.mp4 comparison.mp4 comparison.png bench.json profile-demo.html profile-demo.json build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(RUNTIME): pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "installing torch and the runtime packages into $(VENV) ..."
	@$(PIP) torch
	@$(PIP) --editable '.[serve]'
	@touch $@

$(DEV): $(RUNTIME)
	@echo "installing the development packages into $(VENV) ..."
	@$(PIP) --editable '.[dev]'
	@touch $@
