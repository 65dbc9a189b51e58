#!/usr/bin/env bash
# The tests that need vLLM, on the CPU and without network access to models. Builds their environment on first use.
#
#   scripts/test_vllm.sh [options of pytest]
set -euo pipefail

cd "$(dirname "$0")/.."
environment="${AVRT_VLLM_ENVIRONMENT:-.venv-vllm}"
[ -x "$environment/bin/python" ] || scripts/vllm_environment.sh "$environment" cpu
# vLLM's CPU build binds threads to cores and compiles otherwise, and keeps 4 GB for caches.
export HF_HUB_OFFLINE=1 TORCH_COMPILE_DISABLE=1 VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind
# One process: each holds an engine with a cache of its own.
exec "$environment/bin/python" -m pytest -m vllm -n 0 --timeout 1800 tests/vllm "$@"
