#!/usr/bin/env bash
# One run on two machines of four GPUs each, saved and queued again at the time limit.
#
#   sbatch scripts/slurm.sh CONFIG [more config files]
#   sbatch scripts/slurm.sh cli_configs/grpo_7b.yaml
#
# Submit from the repository's folder, on a file system that all machines share. cli_configs/overlays/slurm.yaml overrides
# the first file, and the other files override both. Other machines are options of sbatch, see docs/train.md; the prompts
# per optimizer step stay the same.
#SBATCH --job-name=avrt
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=avrt-%j.log
# Ten minutes before the end, to this script alone: longer than the slowest optimizer step, validation included.
#SBATCH --signal=B:USR1@600
set -uo pipefail

[ $# -ge 1 ] || { sed -n '2,9p' "$0" >&2; exit 2; }
configs=(--config "$1" --config cli_configs/overlays/slurm.yaml)
for file in "${@:2}"; do configs+=(--config "$file"); done

# A run that has saved itself writes the file `preempted` here, see lightning_modules/callbacks/preemption.py. srun's own
# status can be that of a process which it killed for ending a moment later than the first.
export AVRT_STATUS_DIR=".slurm-status-${SLURM_JOB_ID}"
rm -rf "$AVRT_STATUS_DIR"

export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-8}"  # the offloaded optimizer's threads

# srun forwards the signal to all processes of the run; they save together at their next optimizer step.
run=""
trap '[ -n "$run" ] && kill -USR1 "$run" 2>/dev/null' USR1 TERM

srun --kill-on-bad-exit=1 uv run --no-sync python -m avrt fit "${configs[@]}" \
    --trainer.num_nodes "$SLURM_NNODES" --trainer.devices "$SLURM_NTASKS_PER_NODE" --ckpt_path last &
run=$!

# `wait` also returns when a signal arrives; the run itself is still saving then.
while kill -0 "$run" 2>/dev/null; do wait "$run"; done
wait "$run"
status=$?

if [ -e "$AVRT_STATUS_DIR/preempted" ]; then
    rm -rf "$AVRT_STATUS_DIR"
    scontrol requeue "$SLURM_JOB_ID"
    status=85
fi
exit "$status"
