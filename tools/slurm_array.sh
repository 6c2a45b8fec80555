#!/usr/bin/env bash
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
# Train several runs as a Slurm array. A run that reaches the time limit saves, is queued again, and resumes:
#
#     sbatch --array=1-4 --time=8:00:00 --ntasks=8 --gres=gpu:8 --cpus-per-task=5 tools/slurm_array.sh RUNS
#
# Task i takes line i of the file RUNS: a config and further arguments of train.py, separated by spaces, such as
#
#     configs/mask_rcnn_mambaout_tiny.py --work-dir work_dirs/seed_1 --cfg-options randomness.seed=1
#
# Each line needs a work directory of its own. Submit from the folder that has tools/. The time after --signal (in
# seconds) must be enough for a training step and a checkpoint.
set -euo pipefail
if [ $# -ne 1 ] || [ -z "${SLURM_ARRAY_TASK_ID:-}" ]; then sed -n '5,14s/^# \?//p' "$0" >&2; exit 2; fi
read -ra run <<< "$(sed -n "${SLURM_ARRAY_TASK_ID}p" "$1")"
[ ${#run[@]} -gt 0 ] || { echo "error: $1 has no run in line $SLURM_ARRAY_TASK_ID" >&2; exit 2; }
export MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}  # tasks may share a machine

out_of_time=
trap 'out_of_time=1; kill -USR1 "$step"' USR1
# Slurm runs a copy of this script, so that its own path says nothing
srun --kill-on-bad-exit=1 "${PYTHON:-python}" -u "$SLURM_SUBMIT_DIR/tools/train.py" "${run[@]}" --launcher slurm \
    --resume & step=$!
code=0
wait "$step" || code=$?
while kill -0 "$step" 2> /dev/null; do code=0; wait "$step" || code=$?; done  # a signal ends "wait" early
# 75: the run has saved. Without a signal by Slurm, somebody else has stopped it
if [ -n "$out_of_time" ] && [ "$code" -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
