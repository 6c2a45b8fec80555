#!/usr/bin/env bash
# Train on the GPUs of this machine, or on as many CPU processes where it has none:
#
#     tools/dist_train.sh CONFIG GPUS [arguments of train.py]
#
# On several machines, run it on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT in the environment.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,6s/^# \?//p' "$0" >&2; exit 2; }
[[ $2 =~ ^[1-9][0-9]*$ ]] || { echo "error: GPUS is a number from 1 on, not $2" >&2; exit 2; }
exec "${PYTHON:-python}" "$(dirname "$0")/dist_run.py" \
    --nnodes "${NNODES:-1}" --node-rank "${NODE_RANK:-0}" --nproc-per-node "$2" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${PORT:-29500}" \
    "$(dirname "$0")/train.py" "$1" --launcher pytorch "${@:3}"
