"""The check of the number of images that batch norms see."""

from __future__ import annotations

from torch import nn

from backbones.errors import UserError

from ..compat.private_names import is_batch_norm
from ..engine.sampling import INFINITE_SAMPLERS
from .run_part import RunPart


def check_batch_norms(part: RunPart) -> None:
    """Check that no batch norm computes its statistics from a single value per channel.

    A batch norm after a global pooling, as in the heads of UPerNet, PSPNet and DeepLabV3, sees one value per channel
    and image. PyTorch refuses a single one in training.

    Args:
        part: The training.

    Raises:
        UserError: If all batches of a process, or the last one of a pass through the data, have one image.
    """
    loader = part.cfg.get('train_dataloader') or {}
    batch_size = part.batch_size
    sampler = getattr(part.loop.dataloader.batch_sampler, 'sampler', None)
    norm = _norm_of_pooled_map(part.model)
    if norm is None or not isinstance(batch_size, int) or sampler is None:
        return
    reason = f'model.{norm} normalises over the images of a process and needs 2 of them'
    if batch_size == 1:
        raise UserError(f'{reason}, but train_dataloader.batch_size is 1: set train_dataloader.batch_size=2 or more')
    drop_last = loader.get('drop_last') or (loader.get('batch_sampler') or {}).get('drop_last')
    images = len(sampler)
    is_endless = type(sampler).__name__ in INFINITE_SAMPLERS
    if not is_endless and images % batch_size == 1 and not drop_last:
        drop_key = 'batch_sampler.drop_last' if loader.get('batch_sampler') else 'drop_last'
        raise UserError(
            f'{reason}, but the last batch of a pass through the data has only one, because '
            f'{images} images of a process are divided into batches of '
            f'train_dataloader.batch_size={batch_size}: set another batch_size, or '
            f'train_dataloader.{drop_key}=True'
        )


def _norm_of_pooled_map(model: nn.Module) -> str | None:
    """The name of a batch norm that is trained within one process and follows a global pooling in a Sequential."""
    model.train()  # the mode of the loop: some models keep their batch norms in evaluation mode
    for name, layers in model.named_modules():
        if not isinstance(layers, nn.Sequential) or name.startswith('roi_head'):  # which pools regions, not images
            continue
        pooled = False
        for child_name, child in layers.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size in (1, (1, 1)):
                pooled = True
            for part_name, part in child.named_modules(prefix=f'{name}.{child_name}'):
                is_synchronised = isinstance(part, nn.SyncBatchNorm)  # a Runner keeps it only with several processes
                if pooled and is_batch_norm(part) and part.training and not is_synchronised:
                    return part_name
    return None
