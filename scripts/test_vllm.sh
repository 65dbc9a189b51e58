#!/usr/bin/env bash
# The tests that need vLLM, on the CPU and without network access to models. Builds their environment on first use.
#
#   scripts/test_vllm.sh [options of pytest]
set -euo pipefail

cd "$(dirname "$0")/.."
environment="${AVRT_VLLM_ENVIRONMENT:-.venv-vllm}"
[ -x "$environment/bin/python" ] || scripts/vllm_environment.sh "$environment" cpu
# One process: each holds an engine with a cache of its own.
exec "$environment/bin/python" -m pytest -m vllm -n 0 --timeout 1800 tests/vllm "$@"
