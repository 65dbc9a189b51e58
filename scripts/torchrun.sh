#!/usr/bin/env bash
# One run over several machines without a scheduler. Start it on every machine, with the machine's own number:
#
#   scripts/torchrun.sh FIRST_MACHINE MACHINES THIS_MACHINE CONFIG [more config files]
#   scripts/torchrun.sh gpu-a 2 0 cli_configs/grpo_7b.yaml      # on gpu-a
#   scripts/torchrun.sh gpu-a 2 1 cli_configs/grpo_7b.yaml      # on the other
#
# cli_configs/overlays/torchrun.yaml overrides the first file, and the other files override both. The prompts per
# optimizer step stay the same for any number of machines.
#
# SIGTERM or SIGUSR1 to this script, to torchrun or to a training process saves the run at its next optimizer step.
# torchrun reports every failure of a process as status 1, so the run writes the file `preempted` in the folder
# AVRT_STATUS_DIR; this script then exits with 85.
set -uo pipefail

[ $# -ge 4 ] || { sed -n '2,9p' "$0" >&2; exit 2; }
first=$1 machines=$2 this=$3
shift 3
configs=(--config "$1" --config cli_configs/overlays/torchrun.yaml)
for file in "${@:2}"; do configs+=(--config "$file"); done

gpus="${GPUS:-$(nvidia-smi --list-gpus | wc -l)}"
AVRT_STATUS_DIR="$(mktemp -d)"
export AVRT_STATUS_DIR
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"

run=""
trap '[ -n "$run" ] && kill -TERM "$run" 2>/dev/null' USR1 TERM

# torchrun forwards signals; its own time-out of 30 seconds is too short for a step and a large checkpoint.
uv run --no-sync torchrun --nnodes "$machines" --node-rank "$this" --nproc-per-node "$gpus" \
    --master-addr "$first" --master-port "${MASTER_PORT:-29500}" \
    --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout "${SHUTDOWN_TIMEOUT:-1800}" \
    -m avrt fit "${configs[@]}" \
    --trainer.num_nodes "$machines" --trainer.devices "$gpus" --ckpt_path last &
run=$!

# `wait` also returns when a signal arrives; the run itself is still saving then.
while kill -0 "$run" 2>/dev/null; do wait "$run"; done
wait "$run"
status=$?
[ -e "$AVRT_STATUS_DIR/preempted" ] && status=85
rm -rf "$AVRT_STATUS_DIR"
exit "$status"
