"""What every backbone of this project shares: from an image to the maps that detectors and segmentors take."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, initialize
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .errors import UserError, did_you_mean
from .weights import load_pretrained

LN_EPS = 1e-6  # of every LayerNorm in the paper's models
Arch = TypeVar('Arch')


def get_arch(model: str, arch: str | Mapping, archs: Mapping[str, Arch], kind: type[Arch]) -> Arch:
    """The architecture behind a config's ``arch``: a name of ``archs``, or a dict of the arguments of ``kind``.

    Args:
        model: Whose it is, for messages.
        arch: From the config.
        archs: The known sizes.
        kind: A dataclass.

    Raises:
        UserError: For an unknown name or key, with the nearest known one; for a key that is missing.
    """
    if isinstance(arch, str):
        if arch not in archs:
            guess = did_you_mean(arch.removeprefix(f'{model.lower()}_'), archs)  # 'mambaout_tiny' is timm's name
            raise UserError(f'{model}: unknown arch={arch!r}{guess}; known: {", ".join(archs)}')
        return archs[arch]
    if not isinstance(arch, Mapping):
        raise UserError(f'{model}: arch={arch!r} must be a name or a dict; names: {", ".join(archs)}')
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in arch:
        if key not in fields:
            raise UserError(
                f'{model}: unknown key {key!r} in arch{did_you_mean(key, fields)}; known: {", ".join(fields)}'
            )
    for key, field in fields.items():
        if field.default is dataclasses.MISSING and key not in arch:
            raise UserError(f'{model}: arch as a dict needs {key!r}')
    return kind(**arch)


def drop_path_rates(model: str, last: float, depths: Sequence[int]) -> Iterator[float]:
    """Stochastic depth of one block after the other, from 0 for the first to ``last`` for the last.

    Raises:
        UserError: If ``last`` is no probability below 1.
    """
    if not 0 <= last < 1:
        raise UserError(f'{model}: drop_path_rate={last} must be at least 0 and below 1')
    return iter(torch.linspace(0, last, sum(depths), device='cpu').tolist())


class Stage(nn.Module):
    """A downsampling layer and the blocks behind it, ``(B, H, W, C)`` to ``(B, H', W', C')``."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module], with_cp: bool = False) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.with_cp and torch.is_grad_enabled() else block(x)
        return x


class PyramidBackbone(BaseModule):
    """A stem and stages, each stage at half the resolution of the one before it.

    A subclass builds ``stem`` (image ``(B, C, H, W)`` to cells ``(B, H, W, C)``) and ``stages`` and hands them over.
    Stages behind the last requested one are not kept: they would be parameters without a gradient.

    Args:
        stem: The module at stride 4.
        stages: All stages of the architecture.
        dims: Channels of each stage.
        out_indices: The stages whose maps are returned, in ascending order.
        out_norm: Put a LayerNorm on each returned map, as the authors do (their repository, issue #251).
        frozen_stages: -1 trains everything, 0 freezes the stem, k the stem and the first k stages. Output norms
            train on: no published weights hold them.
        with_cp: Recompute each block in the backward pass instead of keeping its activations.
        init_cfg: mmengine's. ``dict(type='Pretrained', checkpoint=...)`` is read by
            :func:`backbones.weights.load_pretrained`: strictly, and with a word on what was loaded.

    Raises:
        UserError: If ``out_indices`` or ``frozen_stages`` do not fit the number of stages.
    """

    norm_eps = LN_EPS  # of the output norms

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[Stage],
        dims: Sequence[int],
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: bool = True,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        name, count = type(self).__name__, len(stages)
        if (
            not isinstance(out_indices, Sequence)
            or not out_indices
            or list(out_indices) != sorted(set(out_indices) & set(range(count)))
        ):
            raise UserError(f'{name}: out_indices={out_indices} must be ascending stage numbers from 0 to {count - 1}')
        if frozen_stages not in range(-1, count + 1):
            raise UserError(
                f'{name}: frozen_stages={frozen_stages} must be -1 (none), 0 (the stem) or up to {count} '
                '(the stem and that many stages)'
            )
        self.out_indices = tuple(out_indices)
        self.num_stages = count
        self.frozen_stages = frozen_stages
        self.stem = stem
        self.stages = nn.ModuleList(stages[: self.out_indices[-1] + 1])
        for stage in self.stages:
            stage.with_cp = with_cp
        self.out_norms = nn.ModuleDict(
            {str(i): nn.LayerNorm(dims[i], eps=self.norm_eps) if out_norm else nn.Identity() for i in self.out_indices}
        )
        self._freeze()

    def init_weights(self) -> None:
        """Apply ``init_cfg``; without one, keep what the constructor drew, and say so."""
        steps = self.init_cfg if isinstance(self.init_cfg, list) else [self.init_cfg or {}]
        pretrained = [step for step in steps if step.get('type') == 'Pretrained']
        if others := [step for step in steps if step and step not in pretrained]:
            initialize(self, others)
        for step in pretrained:
            load_pretrained(self, step['checkpoint'], step.get('prefix', ''))
        if not self.init_cfg:
            print_log(f'{type(self).__name__}: no init_cfg: weights start at random or from a checkpoint', 'current')
        self._is_init = True

    @property
    def unbuilt(self) -> tuple[str, ...]:
        """Beginnings of the names of those published parameters that this model may be built without."""
        stages = (f'stages.{i}.' for i in range(len(self.stages), self.num_stages))
        norms = (f'out_norms.{i}.' for i in range(self.num_stages) if i not in self.out_indices)
        return ('head.', *stages, *norms)

    def rename(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Published weights under this module's parameter names."""
        return state_dict

    def train(self, mode: bool = True) -> PyramidBackbone:
        """Set the mode of all but the frozen part, which stays in evaluation mode (no drop path)."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages >= 0:
            for module in (self.stem, *self.stages[: self.frozen_stages]):
                module.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps at strides 4, 8, 16, 32 of any image.

        Args:
            x: Images ``(B, C, H, W)``, of any height and width from 1 on.

        Returns:
            One map ``(B, dims[i], ceil(H / s), ceil(W / s))`` with ``s = 4 * 2**i`` for each ``i`` in ``out_indices``.
        """
        x = self.stem(x)
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                maps.append(self.out_norms[str(i)](x).permute(0, 3, 1, 2).contiguous())
        return tuple(maps)
