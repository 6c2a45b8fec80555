"""What all backbones share: configs, feature maps at strides 4 to 32, frozen stages and pretrained weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar, get_type_hints

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, initialize
from timm.layers import ClNormMlpClassifierHead, LayerNorm2d, trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .errors import UserError, did_you_mean
from .weights import load_pretrained

CONFIG_TYPES = {int: int, float: int | float, bool: bool}  # types that a config may use for a field of an architecture
LN_EPS = 1e-6  # epsilon of the LayerNorms in the paper's models
STRIDES = (4, 8, 16, 32)  # of the feature maps, in pixels
Arch = TypeVar('Arch')


def get_arch(model: str, arch: str | Mapping, archs: Mapping[str, Arch]) -> Arch:
    """Look up or build the architecture that a config's ``arch`` describes.

    Args:
        model: Name of the model, for messages.
        arch: A key of ``archs``, or a dict of arguments of their dataclass.
        archs: All named architectures of the model.

    Raises:
        UserError: If a name or key is unknown (the message suggests the nearest one), if a key is missing, or if a
            value has the wrong type.
    """
    if isinstance(arch, str):
        if arch not in archs:
            guess = did_you_mean(arch.removeprefix(f'{model.lower()}_'), archs)  # 'mambaout_tiny' is timm's name
            raise UserError(f'{model}: unknown arch={arch!r}{guess}; known: {", ".join(archs)}')
        return archs[arch]
    if not isinstance(arch, Mapping):
        raise UserError(f'{model}: arch={arch!r} must be a name or a dict; names: {", ".join(archs)}')
    arch_class = type(next(iter(archs.values())))
    fields = dataclasses.fields(arch_class)
    known = [field.name for field in fields]
    for key in arch:
        if key not in known:
            raise UserError(
                f'{model}: unknown key {key!r} in arch{did_you_mean(key, known)}; known: {", ".join(known)}'
            )
    for field in fields:
        if field.default is dataclasses.MISSING and field.name not in arch:
            raise UserError(f'{model}: arch as a dict needs {field.name!r}')
    for key, expected in get_type_hints(arch_class).items():
        if key in arch and not isinstance(arch[key], CONFIG_TYPES.get(expected, object)):
            raise UserError(f'{model}: {key}={arch[key]!r} in arch must be of type {expected.__name__}')
    return arch_class(**arch)


def check_stages(depths: Sequence[int], dims: Sequence[int]) -> None:
    """Raise a :class:`UserError` unless ``depths`` and ``dims`` hold one positive integer for each stage."""
    lists = all(isinstance(x, Sequence) and all(isinstance(n, int) and n > 0 for n in x) for x in (depths, dims))
    if not lists or not depths or len(depths) != len(dims):
        raise UserError(
            f'arch: depths={depths!r} and dims={dims!r} must be lists of the same length, with a positive integer for '
            'each stage'
        )


def drop_path_rates(model: str, drop_path_rate: float, depth: int) -> list[float]:
    """Stochastic depth rates of ``depth`` blocks, which grow linearly from 0 to ``drop_path_rate``.

    Raises:
        UserError: If ``drop_path_rate`` is not a number from 0 to below 1.
    """
    if not isinstance(drop_path_rate, int | float) or not 0 <= drop_path_rate < 1:
        raise UserError(f'{model}: drop_path_rate={drop_path_rate!r} must be a number from 0 to below 1')
    return torch.linspace(0, drop_path_rate, depth, device='cpu').tolist()


def run_blocks(blocks: Iterable[nn.Module], x: Tensor, with_cp: bool) -> Tensor:
    """Apply all blocks to ``x``; ``with_cp`` recomputes each block in the backward pass (activation checkpointing)."""
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=False) if with_cp and torch.is_grad_enabled() else block(x)
    return x


class RMSNorm(nn.LayerNorm):
    """Division of each cell's channels by their root mean square (arXiv 1910.07467), times a learned weight.

    It is a LayerNorm without mean and bias. As a subclass, it is a norm for mmengine's ``norm_decay_mult``, which
    PyTorch's own RMSNorm is not.

    Args:
        dim: Channels.
        eps: Epsilon, added to the mean square.
    """

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__(dim, eps, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # like LayerNorm: fp32 sums and an fp32 result
            return F.rms_norm(x.to(self.weight.dtype), self.normalized_shape, self.weight, self.eps)


class NHWCConv(nn.Conv2d):
    """A convolution from ``(B, H, W, C)`` to ``(B, H', W', C')``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Stage(nn.Module):
    """A downsampling layer followed by blocks, ``(B, H, W, C)`` to ``(B, H', W', C')``."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module], with_cp: bool = False) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        return run_blocks(self.blocks, self.downsample(x), self.with_cp)


class Backbone(BaseModule):
    """Base class: a stem and stages that turn an image into feature maps at strides 4, 8, 16 and 32.

    A subclass builds the stem and the stages up to the last requested one, because later stages would hold parameters
    that never get a gradient. It returns what it has built from :attr:`stem_and_stages`, and its constructor ends with
    a call of :meth:`_freeze`.

    Args:
        num_stages: Number of stages of the architecture.
        out_indices: Stages whose feature maps are returned, in ascending order from 0.
        frozen_stages: -1 trains everything, 0 freezes the stem, k the stem and the first k stages. Parameters that
            pretrained weights may lack, such as the output norms, are always trained.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` loads weights with
            :func:`backbones.weights.load_pretrained`. Other initialisers are mmengine's, and a list applies several.
            ``None`` leaves the weights random.

    Raises:
        UserError: If ``out_indices`` or ``frozen_stages`` do not fit the number of stages, or if ``init_cfg`` is a
            string.
    """

    allowed_missing_keys = ('out_norms.',)
    """Substrings of the names of parameters that pretrained weights may lack. For each substring, weights must hold all
    parameters with it in their names or none of them."""
    out_norm_eps = LN_EPS
    """Epsilon of the output LayerNorms."""
    norm_eval = True
    """Whether batch norms keep the statistics of the pretrained weights in training, as in mmdet's ResNets. A GPU has
    too few images of a detector for statistics of its own. A subclass sets it before it calls this constructor."""
    num_features: int
    """Channels of the last stage."""

    def __init__(
        self, num_stages: int, out_indices: Sequence[int], frozen_stages: int, init_cfg: dict | list[dict] | None
    ) -> None:
        super().__init__(init_cfg)
        name = type(self).__name__
        if isinstance(init_cfg, str):
            raise UserError(f"{name}: init_cfg={init_cfg!r} must be dict(type='Pretrained', checkpoint={init_cfg!r})")
        if (
            not isinstance(out_indices, Sequence)
            or not out_indices
            or list(out_indices) != [i for i in range(num_stages) if i in out_indices]
        ):
            raise UserError(
                f'{name}: out_indices={out_indices} must be ascending stage numbers from 0 to {num_stages - 1}'
            )
        if frozen_stages not in range(-1, num_stages + 1):
            raise UserError(
                f'{name}: frozen_stages={frozen_stages!r} must be -1 (nothing is frozen), 0 (the stem) or a number up '
                f'to {num_stages} (the stem and that many stages)'
            )
        self.out_indices = tuple(out_indices)
        self.num_stages = num_stages
        self.frozen_stages = frozen_stages

    @property
    def stem_and_stages(self) -> list[list[nn.Module | nn.Parameter]]:
        """Modules and parameters of the stem, then those of each stage that was built."""
        raise NotImplementedError

    @property
    def allowed_unexpected_keys(self) -> tuple[str, ...]:
        """Prefixes of the names of pretrained weights that this model does not need, such as the classifier."""
        return ('head.', *(f'out_norms.{i}.' for i in range(self.num_stages) if i not in self.out_indices))

    def convert_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return published weights under the parameter names and in the shapes of this model."""
        return state_dict

    @property
    def layer_prefixes(self) -> list[tuple[str, ...]]:
        """Prefixes of the names of the parameters of each layer, from the stem to the last block that was built."""
        raise NotImplementedError

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Return the depth of the layer that a parameter belongs to.

        The method has the name, arguments and result of mmpretrain's backbones. It gives each layer a learning rate of
        its own (:class:`mmengine_plugin.engine.layer_decay.LayerDecayOptimWrapperConstructor`).

        Args:
            param_name: Name of the parameter in the whole model.
            prefix: Name of the backbone in the whole model, with a dot at its end: ``'backbone.'``.

        Returns:
            The depth and the number of layers. The stem is at depth 0. The last depth is that of parameters that
            pretrained weights may lack, and of all that is not in the backbone.
        """
        layers = self.layer_prefixes
        name = param_name.removeprefix(prefix)
        if param_name.startswith(prefix) and not any(key in name for key in self.allowed_missing_keys):
            for depth, prefixes in enumerate(layers):
                if name.startswith(prefixes):
                    return depth, len(layers) + 1
        return len(layers), len(layers) + 1

    def build_head(self, num_classes: int) -> nn.Module:
        """Build the head of a classifier: the mean over all cells, a LayerNorm and a linear layer, as in ConvNeXt.

        Args:
            num_classes: Length of the logits.

        Returns:
            A module from the cells of the last stage, ``(B, H, W, C)``, to the logits ``(B, num_classes)``.
        """
        return ClNormMlpClassifierHead(self.num_features, num_classes, norm_layer=partial(nn.LayerNorm, eps=LN_EPS))

    def _build_out_norms(self, dims: Sequence[int], out_norm: bool) -> nn.ModuleDict:
        """Build a LayerNorm for each map, as in the authors' code (their repository, issue #251), or identities."""
        norms = nn.ModuleDict()
        for i in self.out_indices:
            norms[str(i)] = nn.LayerNorm(dims[i], eps=self.out_norm_eps) if out_norm else nn.Identity()
        return norms

    def _feature_map(self, i: int, x: Tensor) -> Tensor:
        """Normalise the cells ``(B, H, W, C)`` of stage ``i`` and return them as a view ``(B, C, H, W)``."""
        return self.out_norms[str(i)](x).permute(0, 3, 1, 2)

    def init_weights(self) -> None:
        """Apply ``init_cfg``. Without one, leave the weights of the constructor and log that."""
        steps = self.init_cfg if isinstance(self.init_cfg, list) else [self.init_cfg or {}]
        pretrained = [step for step in steps if step.get('type') == 'Pretrained']
        if others := [step for step in steps if step and step not in pretrained]:
            initialize(self, others)
        for step in pretrained:
            if 'checkpoint' not in step:
                raise UserError(f'{type(self).__name__}: init_cfg={step} names no checkpoint')
            load_pretrained(self, step['checkpoint'], step.get('prefix', ''))
        if not self.init_cfg:
            print_log(
                f'{type(self).__name__} has no init_cfg: its weights are random or those of a checkpoint', 'current'
            )
        self.is_init = True

    def train(self, mode: bool = True) -> Backbone:
        """Set the training mode.

        Frozen stages stay in evaluation mode, that is, without drop path, and so do all batch norms if
        :attr:`norm_eval` is set.
        """
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
                    module.eval()
        names = {parameter: name for name, parameter in self.named_parameters()}
        for stage in self.stem_and_stages[: self.frozen_stages + 1]:
            for member in stage:
                parameters = [member]
                if isinstance(member, nn.Module):
                    member.eval()
                    parameters = member.parameters()
                for parameter in parameters:
                    if not any(key in names[parameter] for key in self.allowed_missing_keys):
                        parameter.requires_grad_(False)


class PyramidBackbone(Backbone):
    """A stem and stages, each at half the resolution of the stage before.

    A subclass builds the stem and all stages and passes them to this constructor.

    Args:
        stem: Images ``(B, C, H, W)`` to cells ``(B, H / 4, W / 4, dims[0])``.
        stages: All stages of the architecture.
        dims: Channels of each stage.
        out_indices: Stages whose feature maps are returned, in ascending order from 0. Later stages are dropped.
        out_norm: Whether each returned map goes through a LayerNorm of its own.
        frozen_stages: -1 trains everything, 0 freezes the stem, k the stem and the first k stages.
        with_cp: Whether blocks are recomputed in the backward pass to save memory (activation checkpointing).
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` loads pretrained weights; ``None`` leaves them random.
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
        self.num_features = dims[-1]
        self.stem = stem
        self.stages = nn.ModuleList(stages[: self.out_indices[-1] + 1])
        for stage in self.stages:
            stage.with_cp = with_cp
        self.out_norms = self._build_out_norms(dims, out_norm)
        self._freeze()

    @property
    def stem_and_stages(self) -> list[list[nn.Module]]:
        """The stem, then each stage that was built."""
        return [[self.stem], *([stage] for stage in self.stages)]

    @property
    def layer_prefixes(self) -> list[tuple[str, ...]]:
        """The stem, then each stage; a stage of 6 or more blocks is divided into layers of about 3, as in ConvNeXt."""
        layers: list[tuple[str, ...]] = [('stem.',)]
        for i, stage in enumerate(self.stages):
            count, blocks = max(1, len(stage.blocks) // 3), range(len(stage.blocks))
            for layer in range(count):
                members = tuple(f'stages.{i}.blocks.{j}.' for j in blocks if j * count // len(blocks) == layer)
                layers.append((f'stages.{i}.downsample.', *members) if layer == 0 else members)
        return layers

    @property
    def allowed_unexpected_keys(self) -> tuple[str, ...]:
        """Prefixes of the names of the classifier, of stages that were not built and of output norms not in use."""
        return (*super().allowed_unexpected_keys, *(f'stages.{i}.' for i in range(len(self.stages), self.num_stages)))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps of images.

        Args:
            x: Images ``(B, C, H, W)`` of any height and width.

        Returns:
            For each ``i`` in ``out_indices`` a contiguous map ``(B, dims[i], ceil(H / s), ceil(W / s))``, at stride
            ``s = 4 * 2**i``.
        """
        x = self.stem(x)
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                maps.append(self._feature_map(i, x).contiguous())
        return tuple(maps)


class MaxPool(nn.MaxPool2d):
    """Max pooling with ``ceil_mode``, written as padding because PyTorch's own recompiles for odd sizes."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        padding = (0, -width % self.kernel_size, 0, -height % self.kernel_size)
        return super().forward(F.pad(x, padding, value=-torch.inf))


def rescaling(dim: int, patch_size: int, stride: int) -> nn.Module:
    """Build the module that turns maps ``(B, dim, H, W)`` at stride ``patch_size`` into maps at ``stride``.

    Both strides are powers of 2. Transposed convolutions enlarge and max pooling shrinks, as in Vim and in BEiT with
    UperNet. The norm between two convolutions is ViTDet's LayerNorm (arXiv 2203.16527), because a batch norm would
    make an image's maps depend on its batch.
    """
    if stride > patch_size:
        return MaxPool(stride // patch_size)
    layers = []
    for _ in range(int(math.log2(patch_size // stride))):
        layers += [LayerNorm2d(dim, eps=LN_EPS), nn.GELU(), nn.ConvTranspose2d(dim, dim, 2, stride=2)]
    return nn.Sequential(*layers[2:])


class IsotropicBackbone(Backbone):
    """Patches, learned positions and blocks of one width; maps are rescaled to their strides.

    A stage is a quarter of the blocks, and the output of its last block is rescaled to the stride of the stage. For 12
    blocks these are the 3rd, 6th, 9th and 12th, as in mmseg's UperNet with ViT; for 24 and 36 blocks they are the
    choice of Vim and PlainMamba. All maps therefore have ``dim`` channels, and all stages cost the same.

    A subclass builds the patch embedding and all blocks and passes them to this constructor.

    Args:
        patch_embed: Images ``(B, C, H, W)`` to patches ``(B, ceil(H / patch_size), ceil(W / patch_size), dim)``.
        blocks: All blocks of the architecture, ``(B, H, W, dim)`` to the same shape.
        dim: Channels.
        patch_size: Height and width of a patch: 4, 8, 16 or 32 pixels.
        grid: Height and width, in patches, of the pretraining images. Positions are learned on this grid and
            interpolated bicubically to other sizes.
        out_indices: Stages whose feature maps are returned, in ascending order from 0. Later blocks are dropped.
        out_norm: Whether each returned map goes through a LayerNorm of its own.
        frozen_stages: -1 trains everything, 0 freezes patch embedding and positions, k also the first k stages.
        with_cp: Whether blocks are recomputed in the backward pass to save memory (activation checkpointing).
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` loads pretrained weights; ``None`` leaves them random.
        strides: Strides of the four stages' maps, in pixels, each one of 4, 8, 16 and 32.

    Raises:
        UserError: If there are fewer than 4 blocks, or if the patch size or a stride is not 4, 8, 16 or 32.
    """

    allowed_missing_keys = ('out_norms.', 'rescale.')
    antialias = True
    """Whether positions are interpolated with PyTorch's ``antialias``, as timm does. It changes enlarged grids, too."""

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
        strides: Sequence[int] = STRIDES,
    ) -> None:
        super().__init__(len(STRIDES), out_indices, frozen_stages, init_cfg)
        name = type(self).__name__
        lists = isinstance(strides, Sequence) and len(strides) == len(STRIDES)
        if not lists or not all(isinstance(stride, int) and stride in STRIDES for stride in strides):
            known = ', '.join(map(str, STRIDES))
            raise UserError(f'{name}: strides={strides!r} must be {len(STRIDES)} numbers, each one of {known}')
        self.strides = tuple(strides)
        self.num_features = dim
        self.patch_size = patch_size
        if len(blocks) < len(STRIDES):
            raise UserError(f'{name}: depth={len(blocks)} must be at least {len(STRIDES)}, one block for each stage')
        if patch_size not in STRIDES:
            raise UserError(f'{name}: patch_size={patch_size} must be one of {", ".join(map(str, STRIDES))}')
        self.with_cp = with_cp
        self.depth = len(blocks)
        self.patch_embed = patch_embed
        self.pos_embed = nn.Parameter(trunc_normal_(torch.empty(1, grid * grid, dim), std=0.02))
        self.blocks = nn.ModuleList(blocks[: self._first_block(self.out_indices[-1] + 1)])
        self.rescale = nn.ModuleDict({str(i): rescaling(dim, patch_size, strides[i]) for i in self.out_indices})
        self.out_norms = self._build_out_norms([dim] * len(STRIDES), out_norm)
        self._freeze()

    def _first_block(self, stage: int) -> int:
        """Index of the first block of a stage."""
        return self.depth * stage // len(STRIDES)

    @property
    def stem_and_stages(self) -> list[list[nn.Module | nn.Parameter]]:
        """Patch embedding and positions, then the blocks of each stage that was built."""
        blocks = list(self.blocks)
        stages = [blocks[self._first_block(i) : self._first_block(i + 1)] for i in range(self.out_indices[-1] + 1)]
        return [[self.patch_embed, self.pos_embed], *stages]

    @property
    def layer_prefixes(self) -> list[tuple[str, ...]]:
        """Patch embedding and positions, then each block."""
        return [('patch_embed.', 'pos_embed'), *((f'blocks.{i}.',) for i in range(len(self.blocks)))]

    @property
    def allowed_unexpected_keys(self) -> tuple[str, ...]:
        """Prefixes of the names of the classifier, of blocks that were not built and of stages without a map."""
        rescale = (f'rescale.{i}.' for i in range(self.num_stages) if i not in self.out_indices)
        blocks = (f'blocks.{i}.' for i in range(len(self.blocks), self.depth))
        return (*super().allowed_unexpected_keys, *rescale, *blocks)

    def keep_patch_stride(self) -> None:
        """Leave all maps at the stride of the patches, as a classifier reads them."""
        self.strides = (self.patch_size,) * len(STRIDES)
        self.rescale = nn.ModuleDict({i: nn.Identity() for i in self.rescale})

    def _interpolation(self, size: int) -> Tensor:
        """Matrix ``(size, grid)`` that interpolates one axis of the grid of positions, in their dtype."""
        grid = math.isqrt(self.pos_embed.shape[1])
        dtype = torch.promote_types(self.pos_embed.dtype, torch.float32)  # CPUs interpolate no half precision
        identity = torch.eye(grid, dtype=dtype, device=self.pos_embed.device)[None, None]
        matrix = F.interpolate(identity, (size, grid), mode='bicubic', antialias=self.antialias)[0, 0]
        return matrix.to(self.pos_embed.dtype)

    def _positions(self, height: int, width: int) -> Tensor:
        """Learned positions ``(height, width, dim)``, interpolated in fp32 even under autocast.

        The interpolation is a product with one matrix per axis. PyTorch's bicubic interpolation has a gradient that
        does not compile for symbolic sizes and differs between runs on CUDA.
        """
        with torch.autocast(self.pos_embed.device.type, enabled=False):
            rows, columns = self._interpolation(height), self._interpolation(width)
            grid = rows.shape[1]
            return columns @ (rows @ self.pos_embed.view(grid, -1)).view(height, grid, -1)

    def _run_stage(self, blocks: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the blocks of a stage. Return the cells for the next stage, and those that the stage's map shows."""
        x = run_blocks(blocks, x, self.with_cp)
        return x, x

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps of images.

        Args:
            x: Images ``(B, C, H, W)`` of any height and width.

        Returns:
            For each ``i`` in ``out_indices`` a contiguous map ``(B, dim, ceil(H / s), ceil(W / s))``, at stride
            ``s = strides[i]``.
        """
        height, width = x.shape[-2:]
        x = self.patch_embed(x)
        x = x + self._positions(*x.shape[1:3])
        _, *stages = self.stem_and_stages
        maps = []
        for i, blocks in enumerate(stages):
            x, cells = self._run_stage(blocks, x)
            if i in self.out_indices:
                cells = self.rescale[str(i)](cells.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
                rows, columns = (-(-size // self.strides[i]) for size in (height, width))  # without padding
                maps.append(self._feature_map(i, cells)[:, :, :rows, :columns].contiguous())
        return tuple(maps)
