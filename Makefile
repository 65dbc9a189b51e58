# Every recipe is one command of CONTRIBUTING.md. `make check` is what a change must pass.
.PHONY: check lint types test slow format pins wheel gpu-wheels

check: lint types test

lint:
	uv run ruff check .
	uv run ruff format --check .

types:
	uv run mypy

test:
	uv run pytest

slow:
	uv run pytest -m "slow or server"

format:
	uv run ruff check --fix .
	uv run ruff format .

# Resolves pyproject.toml anew and writes every version down; `make pins UPGRADE=1` takes the newest that fit.
pins:
	uv run --no-project python tools/pins.py --clear
	uv lock $(if $(UPGRADE),--upgrade)
	uv run --no-project python tools/pins.py
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url $(if $(UPGRADE),--upgrade) --output-file requirements.txt pyproject.toml

wheel:
	uv build --wheel

# What `python -m benchmarks.gpu` needs on a machine without network, see docs/performance.md.
gpu-wheels:
	uv run --no-project --with pip python tools/gpu_wheels.py dist/gpu-wheels
