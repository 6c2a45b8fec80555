"""Joining the processes that a launcher has started: over CPUs here, over GPUs in mmengine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from torch import nn
from torch.distributed import PrefixStore, Store, register_rendezvous_handler, rendezvous

from backbones.errors import UserError

from ..engine.sharding import without_sync_batchnorm

# the variables by which each launcher tells a process its rank, the number of processes, and its rank on this machine
RANK_VARIABLES = dict(
    pytorch=('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    slurm=('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    mpi=('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
)


def join_processes(cfg: Config) -> None:
    """Without GPUs, join the processes over gloo; with GPUs, prepare what mmengine does later.

    mmengine gives each process a GPU before it joins them, and wraps the model for that GPU.

    Args:
        cfg: Config of the run; it gets the model's wrapper or the method by which the processes meet.

    Raises:
        UserError: If this machine has fewer GPUs than processes, or if the processes cannot connect.
    """
    rank, size, local_rank = (os.environ[name] for name in RANK_VARIABLES[cfg.launcher])
    os.environ['LOCAL_RANK'] = local_rank  # where mmengine looks for it
    method = 'restarts://' if cfg.launcher == 'pytorch' else 'env://'
    if torch.cuda.is_available():
        if int(local_rank) >= torch.cuda.device_count():
            raise UserError(
                f'{int(local_rank) + 1} or more processes were started on this machine, and it has '
                f'{torch.cuda.device_count()} GPUs: start one process for each'
            )
        cfg.merge_from_dict({'env_cfg.dist_cfg.init_method': method})
        return
    os.environ.update(RANK=rank, WORLD_SIZE=size)
    if cfg.launcher == 'slurm' and 'MASTER_ADDR' not in os.environ:
        nodes = ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']]
        os.environ['MASTER_ADDR'] = subprocess.run(nodes, check=True, capture_output=True, text=True).stdout.split()[0]
    address = os.environ.setdefault('MASTER_ADDR', '127.0.0.1'), os.environ.setdefault('MASTER_PORT', '29500')
    try:
        torch.distributed.init_process_group('gloo', method)
    except torch.distributed.DistNetworkError as error:
        raise UserError(
            f'the processes cannot meet at {":".join(address)}: set MASTER_PORT to a port that is free there '
            f'[{str(error).splitlines()[0]}]'
        ) from error
    if (cfg.get('model_wrapper_cfg') or {}).get('type') == 'ShardedDataParallel':
        return
    find_unused = cfg.get('find_unused_parameters', False)
    cfg.model_wrapper_cfg = dict(type='CPUDistributedDataParallel', find_unused_parameters=find_unused)


def _rendezvous(url: str, **kwargs: object) -> Iterator[tuple[Store, int, int]]:
    """PyTorch's ``env://``, but after a restart the processes do not find the addresses of lost ones in the store."""
    store, rank, size = next(rendezvous('env://', **kwargs))
    yield PrefixStore(f'restart {os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)}', store), rank, size


register_rendezvous_handler('restarts', _rendezvous)


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """Data parallelism over CPUs. SyncBN does not work there and becomes BN.

    Args:
        module: The model.
        device_ids: mmengine's argument for GPUs; it is not used.
        **kwargs: Arguments of mmengine's MMDistributedDataParallel.
    """

    def __init__(self, module: nn.Module, device_ids: object = None, **kwargs: object) -> None:
        module = without_sync_batchnorm(module)
        super().__init__(module, device_ids=None, broadcast_buffers=False, **kwargs)
