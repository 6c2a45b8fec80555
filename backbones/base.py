"""What every backbone of this project shares: from an image to the maps that detectors and segmentors take."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar, get_type_hints

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, initialize
from timm.layers import LayerNorm2d, trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .errors import UserError, did_you_mean
from .weights import load_pretrained

ACCEPTED = {int: int, float: int | float, bool: bool}  # what a config may write for a field of an arch, by its type
LN_EPS = 1e-6  # of every LayerNorm in the paper's models
STRIDES = (4, 8, 16, 32)  # of the maps, in pixels
Arch = TypeVar('Arch')


def get_arch(model: str, arch: str | Mapping, archs: Mapping[str, Arch]) -> Arch:
    """The architecture behind a config's ``arch``: a name of ``archs``, or a dict of its dataclass's arguments.

    Raises:
        UserError: For an unknown name or key, with the nearest known one, for a key that is missing, and for a value of
            another type.
    """
    if isinstance(arch, str):
        if arch not in archs:
            guess = did_you_mean(arch.removeprefix(f'{model.lower()}_'), archs)  # 'mambaout_tiny' is timm's name
            raise UserError(f'{model}: unknown arch={arch!r}{guess}; known: {", ".join(archs)}')
        return archs[arch]
    if not isinstance(arch, Mapping):
        raise UserError(f'{model}: arch={arch!r} must be a name or a dict; names: {", ".join(archs)}')
    size = type(next(iter(archs.values())))
    known = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(size)}
    for key in arch:
        if key not in known:
            raise UserError(
                f'{model}: unknown key {key!r} in arch{did_you_mean(key, known)}; known: {", ".join(known)}'
            )
    for key, needed in known.items():
        if needed and key not in arch:
            raise UserError(f'{model}: arch as a dict needs {key!r}')
    for key, kind in get_type_hints(size).items():
        if key in arch and not isinstance(arch[key], ACCEPTED.get(kind, object)):
            raise UserError(f'{model}: {key}={arch[key]!r} in arch must be of type {kind.__name__}')
    return size(**arch)


def check_stages(depths: Sequence[int], dims: Sequence[int]) -> None:
    """Refuse depths and channels that do not belong to the same stages, one number each."""
    lists = all(isinstance(x, Sequence) and all(isinstance(n, int) and n > 0 for n in x) for x in (depths, dims))
    if not lists or not depths or len(depths) != len(dims):
        raise UserError(f'arch: depths={depths!r} and dims={dims!r} must name the same stages, a number for each')


def drop_path_rates(model: str, drop_path_rate: float, depth: int) -> list[float]:
    """The rate of each of ``depth`` blocks: linearly from 0 to ``drop_path_rate``.

    Raises:
        UserError: If ``drop_path_rate`` is no probability below 1.
    """
    if not isinstance(drop_path_rate, int | float) or not 0 <= drop_path_rate < 1:
        raise UserError(f'{model}: drop_path_rate={drop_path_rate!r} must be at least 0 and below 1')
    return torch.linspace(0, drop_path_rate, depth, device='cpu').tolist()


def run(blocks: Iterable[nn.Module], x: Tensor, with_cp: bool) -> Tensor:
    """``x`` through all blocks; ``with_cp``, each is computed again in the backward pass."""
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=False) if with_cp and torch.is_grad_enabled() else block(x)
    return x


class NHWCConv(nn.Conv2d):
    """A convolution from ``(B, H, W, C)`` to ``(B, H', W', C')``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Stage(nn.Module):
    """A downsampling layer and the blocks behind it, ``(B, H, W, C)`` to ``(B, H', W', C')``."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module], with_cp: bool = False) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        return run(self.blocks, self.downsample(x), self.with_cp)


class Backbone(BaseModule):
    """An image's maps at strides 4, 8, 16 and 32, for any detector or segmentor.

    A subclass is a stem and stages, with a map behind each stage, and lists them as ``parts``. Stages behind the last
    requested one are not kept: they would be parameters without a gradient. It ends its constructor with
    :meth:`_freeze`.

    Args:
        count: How many stages the architecture has.
        out_indices: The stages whose maps are returned, in ascending order.
        frozen_stages: -1 trains everything, 0 freezes the stem, k the stem and the first k stages. What no published
            weights hold, the output norms above all, trains on.
        init_cfg: mmengine's. ``dict(type='Pretrained', checkpoint=...)`` is read by
            :func:`backbones.weights.load_pretrained`: strictly, and with a word on what was loaded.

    Raises:
        UserError: If ``out_indices`` or ``frozen_stages`` do not fit the number of stages.
    """

    unpublished = ('out_norms.',)
    """What is in the names of those parameters that published weights may hold none of."""
    norm_eps = LN_EPS
    """Of the output norms."""

    def __init__(
        self, count: int, out_indices: Sequence[int], frozen_stages: int, init_cfg: dict | list[dict] | None
    ) -> None:
        super().__init__(init_cfg)
        name = type(self).__name__
        if isinstance(init_cfg, str):
            raise UserError(f"{name}: init_cfg={init_cfg!r} must be dict(type='Pretrained', checkpoint={init_cfg!r})")
        if (
            not isinstance(out_indices, Sequence)
            or not out_indices
            or list(out_indices) != [i for i in range(count) if i in out_indices]
        ):
            raise UserError(f'{name}: out_indices={out_indices} must be ascending stage numbers from 0 to {count - 1}')
        if frozen_stages not in range(-1, count + 1):
            raise UserError(
                f'{name}: frozen_stages={frozen_stages!r} must be -1 (none), 0 (the stem) or up to {count} '
                '(the stem and that many stages)'
            )
        self.out_indices = tuple(out_indices)
        self.num_stages = count
        self.frozen_stages = frozen_stages

    @property
    def parts(self) -> list[list[nn.Module | nn.Parameter]]:
        """What makes up the stem, and what each stage that was built."""
        raise NotImplementedError

    def _norms(self, dims: Sequence[int], out_norm: bool) -> nn.ModuleDict:
        """A LayerNorm for each returned map, as the authors have it (their repository, issue #251), or nothing."""
        norms = (nn.LayerNorm(dims[i], eps=self.norm_eps) if out_norm else nn.Identity() for i in self.out_indices)
        return nn.ModuleDict(zip(map(str, self.out_indices), norms, strict=True))

    def _map(self, i: int, x: Tensor) -> Tensor:
        """The map ``(B, C, H, W)`` of stage ``i`` whose cells are ``(B, H, W, C)``, in their memory format."""
        return self.out_norms[str(i)](x).permute(0, 3, 1, 2)

    def init_weights(self) -> None:
        """Apply ``init_cfg``; without one, keep what the constructor drew, and say so."""
        steps = self.init_cfg if isinstance(self.init_cfg, list) else [self.init_cfg or {}]
        pretrained = [step for step in steps if step.get('type') == 'Pretrained']
        if others := [step for step in steps if step and step not in pretrained]:
            initialize(self, others)
        for step in pretrained:
            if 'checkpoint' not in step:
                raise UserError(f'{type(self).__name__}: init_cfg={step} names no checkpoint')
            load_pretrained(self, step['checkpoint'], step.get('prefix', ''))
        if not self.init_cfg:
            print_log(f'{type(self).__name__}: no init_cfg: weights start at random or from a checkpoint', 'current')
        self._is_init = True

    @property
    def unbuilt(self) -> tuple[str, ...]:
        """Beginnings of the names of those published parameters that this model may be built without."""
        return ('head.', *(f'out_norms.{i}.' for i in range(self.num_stages) if i not in self.out_indices))

    def rename(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Published weights under this module's parameter names."""
        return state_dict

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode of all but the frozen part, which stays in evaluation mode (no drop path)."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        names = {parameter: name for name, parameter in self.named_parameters()}
        for member in (member for part in self.parts[: self.frozen_stages + 1] for member in part):
            if isinstance(member, nn.Module):
                member.eval()
            for parameter in member.parameters() if isinstance(member, nn.Module) else [member]:
                if not any(part in names[parameter] for part in self.unpublished):
                    parameter.requires_grad_(False)


class PyramidBackbone(Backbone):
    """A stem and stages, each stage at half the resolution of the one before it.

    A subclass builds ``stem`` (image ``(B, C, H, W)`` to cells ``(B, H, W, C)``) and ``stages`` and hands them over.

    Args:
        stem: The module at stride 4.
        stages: All stages of the architecture.
        dims: Channels of each stage.
        out_indices: See :class:`Backbone`, like ``frozen_stages`` and ``init_cfg``.
        out_norm: Put a LayerNorm on each returned map.
        frozen_stages: How much is frozen.
        with_cp: Recompute each block in the backward pass instead of keeping its activations.
        init_cfg: Where weights come from.
    """

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
        super().__init__(len(stages), out_indices, frozen_stages, init_cfg)
        self.stem = stem
        self.stages = nn.ModuleList(stages[: self.out_indices[-1] + 1])
        for stage in self.stages:
            stage.with_cp = with_cp
        self.out_norms = self._norms(dims, out_norm)
        self._freeze()

    @property
    def parts(self) -> list[list[nn.Module]]:
        """The stem, and each stage that was built."""
        return [[self.stem], *([stage] for stage in self.stages)]

    @property
    def unbuilt(self) -> tuple[str, ...]:
        """See :class:`Backbone`."""
        return (*super().unbuilt, *(f'stages.{i}.' for i in range(len(self.stages), self.num_stages)))

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
                maps.append(self._map(i, x).contiguous())
        return tuple(maps)


class MaxPool(nn.MaxPool2d):
    """Max pooling that keeps the cells at the border; PyTorch's own way to keep them compiles anew for odd sizes."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        padding = (0, -width % self.kernel_size, 0, -height % self.kernel_size)
        return super().forward(F.pad(x, padding, value=-torch.inf))


def rescaling(dim: int, patch_size: int, stride: int) -> nn.Module:
    """From maps ``(B, dim, H, W)`` at stride ``patch_size`` to those at ``stride``; both are powers of 2.

    Transposed convolutions enlarge and max pooling shrinks, as Vim and BEiT do it for UperNet; the norm between two
    convolutions is ViTDet's (arXiv 2203.16527), which unlike their batch norm does not depend on the batch.
    """
    if stride > patch_size:
        return MaxPool(stride // patch_size)
    layers = []
    for _ in range(int(math.log2(patch_size // stride))):
        layers += [LayerNorm2d(dim, eps=LN_EPS), nn.GELU(), nn.ConvTranspose2d(dim, dim, 2, stride=2)]
    return nn.Sequential(*layers[2:])


class IsotropicBackbone(Backbone):
    """Patches, learned positions and blocks of one width, whose maps are brought to strides 4, 8, 16 and 32.

    A stage is a quarter of the blocks, and the map behind it is rescaled to the stage's stride: of 12 blocks, those
    behind which maps are taken are the 3rd, 6th, 9th and 12th, as in mmseg's UperNet with ViT; of 24 and 36, they are
    those of Vim and PlainMamba. So all maps are ``dim`` wide, and stages cost the same.

    A subclass builds ``patch_embed`` and ``blocks`` and hands them over.

    Args:
        patch_embed: Images ``(B, C, H, W)`` to patches ``(B, ceil(H / patch_size), ceil(W / patch_size), dim)``.
        blocks: All blocks of the architecture, ``(B, H, W, dim)`` to the same.
        dim: Channels.
        patch_size: 4, 8, 16 or 32 pixels.
        grid: Height and width, in patches, of the images of the pretraining. Positions are learned on this grid, and
            interpolated bicubically to any other.
        out_indices: See :class:`Backbone`, like ``frozen_stages`` and ``init_cfg``; the stem is patches and positions.
        out_norm: Put a LayerNorm on each returned map.
        frozen_stages: How much is frozen.
        with_cp: Recompute each block in the backward pass instead of keeping its activations.
        init_cfg: Where weights come from.

    Raises:
        UserError: If there are fewer blocks than stages, or patches of another size.
    """

    unpublished = ('out_norms.', 'rescale.')

    def __init__(
        self,
        patch_embed: nn.Module,
        blocks: Sequence[nn.Module],
        dim: int,
        patch_size: int,
        grid: int,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: bool = True,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(len(STRIDES), out_indices, frozen_stages, init_cfg)
        name = type(self).__name__
        if len(blocks) < len(STRIDES):
            raise UserError(f'{name}: depth={len(blocks)} must be {len(STRIDES)} at least: a map behind each quarter')
        if patch_size not in STRIDES:
            raise UserError(f'{name}: patch_size={patch_size} must be one of {", ".join(map(str, STRIDES))}')
        self.with_cp = with_cp
        self.depth = len(blocks)
        self.patch_embed = patch_embed
        self.pos_embed = nn.Parameter(trunc_normal_(torch.empty(1, grid * grid, dim), std=0.02))
        self.blocks = nn.ModuleList(blocks[: self._end(self.out_indices[-1])])
        self.rescale = nn.ModuleDict({str(i): rescaling(dim, patch_size, STRIDES[i]) for i in self.out_indices})
        self.out_norms = self._norms([dim] * len(STRIDES), out_norm)
        self._freeze()

    def _end(self, i: int) -> int:
        """How many blocks lie before the map of stage ``i``."""
        return self.depth * (i + 1) // len(STRIDES)

    @property
    def parts(self) -> list[list[nn.Module | nn.Parameter]]:
        """Patches and positions, and the blocks of each stage that was built."""
        stages = [list(self.blocks)[self._end(i - 1) : self._end(i)] for i in range(self.out_indices[-1] + 1)]
        return [[self.patch_embed, self.pos_embed], *stages]

    @property
    def unbuilt(self) -> tuple[str, ...]:
        """See :class:`Backbone`."""
        rescale = (f'rescale.{i}.' for i in range(self.num_stages) if i not in self.out_indices)
        return (*super().unbuilt, *rescale, *(f'blocks.{i}.' for i in range(len(self.blocks), self.depth)))

    def _positions(self, height: int, width: int) -> Tensor:
        """Learned positions ``(height, width, dim)``, as timm interpolates them, in fp32 under autocast, too.

        By products with a matrix for each axis: the gradient of PyTorch's bicubic interpolation neither compiles for
        sizes that are symbols nor is the same in each run on CUDA.
        """
        grid = math.isqrt(self.pos_embed.shape[1])
        with torch.autocast(self.pos_embed.device.type, enabled=False):
            each = torch.eye(grid, dtype=self.pos_embed.dtype, device=self.pos_embed.device)[None, None]
            rows, columns = (
                F.interpolate(each, (size, grid), mode='bicubic', antialias=True)[0, 0] for size in (height, width)
            )
            return columns @ (rows @ self.pos_embed.view(grid, -1)).view(height, grid, -1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps at strides 4, 8, 16, 32 of any image.

        Args:
            x: Images ``(B, C, H, W)``, of any height and width from 1 on.

        Returns:
            One map ``(B, dim, ceil(H / s), ceil(W / s))`` with ``s = 4 * 2**i`` for each ``i`` in ``out_indices``.
        """
        height, width = x.shape[-2:]
        x = self.patch_embed(x)
        x = x + self._positions(*x.shape[1:3])
        maps = []
        for i, blocks in enumerate(self.parts[1:]):
            x = run(blocks, x, self.with_cp)
            if i in self.out_indices:
                cells = self.rescale[str(i)](x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
                cells = self._map(i, cells)  # those of the last patches that lie beyond the image are left out
                maps.append(cells[:, :, : -(-height // STRIDES[i]), : -(-width // STRIDES[i])].contiguous())
        return tuple(maps)
