#!/usr/bin/env bash
# Train on the GPUs of this machine, or on as many CPU processes if it has no GPU:
#
#     tools/dist_train.sh CONFIG GPUS [arguments of train.py]
#
# On several machines, run it on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT in the environment.
#
# With MAX_RESTARTS=N in the environment, and --resume, all processes are restarted up to N times if one is killed or
# crashes, but not if it was asked to exit, nor after an "error:" line. On several machines, N must be the same on each.
# A machine that is lost as a whole is not replaced: the others wait for it until PyTorch's time limits end them.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,10s/^# \?//p' "$0" >&2; exit 2; }
[[ $2 =~ ^[1-9][0-9]*$ ]] || { echo "error: GPUS must be a number from 1 on, not $2" >&2; exit 2; }
[[ ${MAX_RESTARTS:=0} =~ ^[0-9]+$ ]] || { echo "error: MAX_RESTARTS must be a number, not $MAX_RESTARTS" >&2; exit 2; }
[[ ${NNODES:=1} =~ ^[1-9][0-9]*$ ]] || {
    echo "error: NNODES must be the number of machines, not $NNODES: a run keeps its number of machines" >&2; exit 2
}
exec "${PYTHON:-python}" "$(dirname "$0")/dist_run.py" \
    --nnodes "$NNODES" --node-rank "${NODE_RANK:-0}" --nproc-per-node "$2" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${PORT:-29500}" --max-restarts "$MAX_RESTARTS" \
    "$(dirname "$0")/train.py" "$1" --launcher pytorch "${@:3}"
