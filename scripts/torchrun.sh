#!/usr/bin/env bash
# One run over several machines without a scheduler. Start it on every machine, with the machine's own number:
#
#   scripts/torchrun.sh FIRST_MACHINE MACHINES THIS_MACHINE CONFIG [more --config files]
#   scripts/torchrun.sh gpu-a 2 0 cli_configs/grpo_7b.yaml      # on gpu-a
#   scripts/torchrun.sh gpu-a 2 1 cli_configs/grpo_7b.yaml      # on the other
#
# SIGTERM or SIGUSR1 to a training process saves the run at its next optimizer step. torchrun reports every failure of a
# process as status 1, so the run leaves the file `preempted` in the folder AVRT_STATUS_DIR; this script then ends with 85.
set -uo pipefail

[ $# -ge 4 ] || { sed -n '2,7p' "$0" >&2; exit 2; }
first=$1 machines=$2 this=$3
shift 3
configs=()
for file in "$@"; do configs+=(--config "$file"); done

gpus="${GPUS:-$(nvidia-smi --list-gpus | wc -l)}"
AVRT_STATUS_DIR="$(mktemp -d)"
export AVRT_STATUS_DIR
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"

uv run --no-sync torchrun --nnodes "$machines" --node-rank "$this" --nproc-per-node "$gpus" \
    --master-addr "$first" --master-port "${MASTER_PORT:-29500}" \
    -m avrt fit "${configs[@]}" --config cli_configs/overlays/torchrun.yaml \
    --trainer.num_nodes "$machines" --trainer.devices "$gpus" --ckpt_path last
status=$?
[ -e "$AVRT_STATUS_DIR/preempted" ] && status=85
rm -rf "$AVRT_STATUS_DIR"
exit "$status"
