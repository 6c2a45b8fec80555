#!/usr/bin/env bash
# Test on the GPUs of this machine, or on as many CPU processes if it has no GPU:
#
#     tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of test.py]
#
# On several machines, run it on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT in the environment.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,6s/^# \?//p' "$0" >&2; exit 2; }
[[ $3 =~ ^[1-9][0-9]*$ ]] || { echo "error: GPUS must be a number from 1 on, not $3" >&2; exit 2; }
exec "${PYTHON:-python}" "$(dirname "$0")/dist_run.py" \
    --nnodes "${NNODES:-1}" --node-rank "${NODE_RANK:-0}" --nproc-per-node "$3" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${PORT:-29500}" \
    "$(dirname "$0")/test.py" "$1" "$2" --launcher pytorch "${@:4}"
