"""S4ND-ConvNeXt: ConvNeXt with convolutions whose kernels are as large as the map (arXiv 2210.06583).

S4ND replaces each depthwise convolution. Its kernel is the outer product of one kernel for each axis, and both are
impulse responses of state spaces (S4, arXiv 2111.00396), which have values at any distance.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from mmengine.registry import MODELS
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from .base import LN_EPS, PyramidBackbone, Stage, check_stages, drop_path_rates, get_arch
from .drop_path import DropPath
from .errors import UserError
from .ops.s4nd import impulse_responses, toeplitz
from .s6 import init_layers
from .state_dicts import renamed
from .weights import mismatches


@dataclasses.dataclass(frozen=True)
class Arch:
    """One size of S4ND-ConvNeXt.

    Args:
        depths: Blocks of each stage.
        dims: Channels of each stage.
        state: Size of the state of each channel and axis, an even number: eigenvalues come in conjugate pairs.
    """

    depths: Sequence[int]
    dims: Sequence[int]
    state: int = 64

    def __post_init__(self) -> None:
        check_stages(self.depths, self.dims)
        if self.state < 2 or self.state % 2:
            raise UserError(f'arch: state={self.state} must be a positive even number')


# official repository, configs/experiment/s4nd/convnext/convnext_timm_tiny_s4nd_imagenet.yaml
ARCHS = dict(tiny=Arch((3, 3, 9, 3), (96, 192, 384, 768)))
STEM_CHANNELS = 32
STEM_LENGTH = 16  # of the stem's kernels in each direction, in pixels
STEP_SIZES = (0.1, 1.0)  # smallest and largest step size of the initialisation


class S4Kernel(nn.Module):
    """Parameters of the state spaces of an axis, with the official names and shapes.

    The state space of a channel is ``x' = A x + B u``, ``y = C x`` with ``A = diag(a) - P P*``, discretised with step
    ``dt`` by the bilinear transform. Its kernel, or impulse response, is ``k[l] = C A'^l B'`` with
    ``A' = (I - dt/2 A)^-1 (I + dt/2 A)`` and ``B' = (I - dt/2 A)^-1 dt B``. All channels share ``A`` and ``B``.
    Parameters hold one of each pair of conjugate eigenvalues.

    Args:
        dim: Channels.
        kernels: Kernels of each channel, each with its own ``C``.
        state: Size of the state, an even number.
    """

    def __init__(self, dim: int, kernels: int, state: int) -> None:
        super().__init__()
        pairs = state // 2
        # the last axis of size 2 holds real and imaginary parts
        self.C = nn.Parameter(torch.empty(kernels, dim, pairs, 2))
        self.inv_dt = nn.Parameter(torch.empty(dim, 1))  # logarithm of the step
        self.B = nn.Parameter(torch.empty(1, 1, pairs, 2))
        self.P = nn.Parameter(torch.empty(1, 1, pairs, 2))
        self.A_real = nn.Parameter(torch.empty(1, pairs))  # logarithm of the real part's absolute value
        self.A_imag = nn.Parameter(torch.empty(1, pairs))  # negative imaginary part
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise with the state space whose state holds Fourier coefficients of the last ``1 / dt`` inputs."""
        nn.init.normal_(self.C, std=0.5**0.5)
        nn.init.uniform_(self.inv_dt, *map(math.log, STEP_SIZES))
        with torch.no_grad():
            frequencies = torch.arange(self.A_imag.shape[1] - 1, -1, -1, device=self.A_imag.device)
            self.A_imag.copy_((math.pi * frequencies).clamp(min=1e-4))
            self.A_real.fill_(math.log(1e-4))
            for vector in (self.B, self.P):
                vector.zero_()[..., 0] = 1
                vector[..., -1, 0] = 0.5**0.5  # frequency 0 has one coefficient, not two

    @torch.no_grad()
    def untruncated(self, length: int) -> Tensor:
        """Compute ``C`` from ``C (I - A'^length)``, which the official code holds in its place."""
        a = torch.complex(-self.A_real.double().exp(), -self.A_imag.double())[0]
        p, c = (torch.view_as_complex(x.double()) for x in (self.P[0, 0], self.C))
        a, p, c = (torch.cat((x, x.conj()), -1) for x in (a, p, c))
        scaled = self.inv_dt.double().exp()[..., None] / 2 * (torch.diag(a) - p[:, None] * p.conj())  # dt/2 A
        identity = torch.eye(len(a), dtype=a.dtype)
        power = torch.linalg.matrix_power(torch.linalg.solve(identity - scaled, identity + scaled), length)
        c = torch.linalg.solve((identity - power).mT, c.permute(1, 2, 0)).permute(2, 0, 1)
        return torch.stack((c.real, c.imag), -1)[..., : len(a) // 2, :].to(self.C.dtype)


class S4Kernels(nn.ModuleList):
    """State spaces of columns and of rows of maps; see :class:`S4Kernel`."""

    def __init__(self, dim: int, kernels: int, state: int) -> None:
        super().__init__(S4Kernel(dim, kernels, state) for _ in range(2))

    def stacked(self) -> list[Tensor]:
        """Stack the parameters of both axes, in the order of :mod:`backbones.ops.s4nd`."""
        names = ('C', 'inv_dt', 'B', 'P', 'A_real', 'A_imag')
        return [torch.stack([getattr(kernel, name) for kernel in self]) for name in names]


def completed(x: Tensor, size: int) -> Tensor:
    """Append zeros to ``(B, H, W, C)`` up to multiples of ``size`` cells."""
    # torch.compile simplifies this form of the number of zeros for symbolic sizes, and not `-m % size`
    return F.pad(x, (0, 0, *(n for m in (x.shape[2], x.shape[1]) for n in (0, (m + size - 1) // size * size - m))))


def averaged(x: Tensor, axis: int, size: int) -> Tensor:
    """Average each ``size`` neighbours along an axis."""
    return x if size == 1 else x.unflatten(axis, (-1, size)).mean(axis + 1)


class S4ND(nn.Module):
    """S4ND over maps (paper, section 3), ``(B, H, W, dim)`` to ``(B, ceil(H / stride), ceil(W / stride), dim)``.

    Each channel becomes ``T_h U T_w^T + D U``. ``T_h`` and ``T_w`` are Toeplitz matrices that hold an axis's kernels
    towards both sides. An average over ``stride x stride`` cells follows, which the matrices include; zeros complete
    the last cells. Results are in single precision or that of the parameters, under autocast, too.

    Args:
        dim: Channels.
        state: Size of the state of each channel and axis.
        limit: Length in cells at which kernels are cut; 0 for kernels as long as the map.
        stride: Stride of the output.
    """

    def __init__(self, dim: int, state: int, limit: int = 0, stride: int = 1) -> None:
        super().__init__()
        self.kernel = S4Kernels(dim, 2, state)
        self.D = nn.Parameter(torch.randn(1, dim))
        self.limit = limit
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = completed(x.to(self.D.dtype), self.stride)
            columns, rows = toeplitz(*self.kernel.stacked(), *x.shape[1:3], self.limit, self.stride)
            u = x.permute(3, 1, 0, 2)  # (dim, H, B, W): one copy serves both products
            y = (u.flatten(1, 2) @ rows.mT).unflatten(1, u.shape[1:3])
            y = (columns @ y.flatten(2)).unflatten(2, y.shape[2:])
            return y.permute(2, 1, 3, 0) + self.D[0] * averaged(averaged(x, 2, self.stride), 1, self.stride)


class Stem(nn.Module):
    """S4ND from pixels to 32 channels, average over 4x4, GLU and norm, ``(B, C, H, W)`` to ``(B, H / 4, W / 4, dim)``.

    Kernels are short, and there is one for each pair of channels: the sum over the image's channels is not depthwise.
    The average merges into the kernels, so that convolutions of stride 4 compute both. Zeros complete the last 4x4.
    """

    def __init__(self, in_channels: int, dim: int, state: int) -> None:
        super().__init__()
        self.kernel = S4Kernels(in_channels, 2 * STEM_CHANNELS, state)
        self.fc = nn.Linear(STEM_CHANNELS, 2 * dim)
        self.norm = nn.LayerNorm(dim, LN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = completed(x.to(self.fc.weight.dtype).permute(0, 2, 3, 1), 4).permute(0, 3, 1, 2)
            columns, rows = self.weights()[:, :, None]
            x = F.conv2d(x, rows[:, :, None], stride=(1, 4), padding=(0, STEM_LENGTH), groups=x.shape[1])
            x = F.conv2d(x, columns[..., None], stride=(4, 1), padding=(STEM_LENGTH, 0), groups=x.shape[1])
            x = x.unflatten(1, (-1, STEM_CHANNELS)).sum(1)
        return self.norm(F.glu(self.fc(x.permute(0, 2, 3, 1)), -1))

    def weights(self) -> Tensor:
        """Weights ``(2, C * 32, 36)`` for stride 4: the means of the kernels at 4 neighbouring positions."""
        kernels = impulse_responses(STEM_LENGTH, *self.kernel.stacked())
        back, ahead = kernels.to(self.fc.weight.dtype).chunk(2, 1)
        weights = torch.cat((back.flip(-1), ahead), -1)  # of pixels at distances -15 to 16
        return F.pad(weights, (4, 3)).unfold(-1, 4, 1).mean(-1).transpose(1, 2).flatten(1, 2)


class Downsample(nn.Module):
    """Norm, S4ND, average over 2x2 and GLU, ``(B, H, W, in_dim)`` to ``(B, ceil(H / 2), ceil(W / 2), dim)``."""

    def __init__(self, in_dim: int, dim: int, state: int, limit: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_dim, LN_EPS)
        self.s4nd = S4ND(in_dim, state, limit, stride=2)
        self.fc = nn.Linear(in_dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.fc(self.s4nd(self.norm(x))), -1)


class S4NDBlock(nn.Module):
    """ConvNeXt's block: ``x + gamma * mlp(norm(s4nd(x)))``, ``(B, H, W, dim)`` to the same shape."""

    def __init__(self, dim: int, state: int, limit: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.s4nd = S4ND(dim, state, limit)
        self.norm = nn.LayerNorm(dim, LN_EPS)
        self.mlp = Mlp(dim, 4 * dim)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop_path(x, lambda x: self.gamma * self.mlp(self.norm(self.s4nd(x))))


NAMES = (  # patterns of official names, and ours
    (r'^model\.', ''),
    (r'^stem\.stem\.', 'stem.'),
    (r'^stem\.post_stem\.1\.', 'stem.fc.'),
    (r'^stem\.post_stem\.3\.', 'stem.norm.'),
    (r'\.norm_layer\.', '.downsample.norm.'),
    (r'\.downsample\.s4conv\.', '.downsample.s4nd.'),
    (r'\.conv_dw\.', '.s4nd.'),
)


def our_names(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert official weights to our names and values. Weights with our names stay as they are.

    After its first step, the official code holds ``C (I - A'^L)`` instead of ``C``, for the length ``L`` in
    ``l_kernel``; ``C`` is computed from it. The ``D`` of the official stem is not used there, and is dropped.
    """
    state = renamed(state_dict, NAMES)
    state.pop('stem.D', None)
    for key in [key for key in state if key.endswith('.l_kernel')]:
        length, prefix = int(state.pop(key)), key.removesuffix('l_kernel')
        weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if length and weights.get('C', torch.empty(0)).ndim == 4:
            kernels, dim, pairs, _ = weights['C'].shape
            kernel = S4Kernel(dim, kernels, 2 * pairs)
            if not mismatches(kernel.state_dict(), weights):  # others are refused by name later
                kernel.load_state_dict(weights)
                state[f'{prefix}C'] = kernel.untruncated(length)
    return state


@MODELS.register_module()
class S4NDConvNeXt(PyramidBackbone):
    """S4ND-ConvNeXt as a four-stage backbone; the maps have the architecture's ``dims`` as channels.

    Kernels are computed for the size of each map, so that each cell sees the whole map, whatever its size. The official
    code cuts kernels at the maps of its training images, 56, 28, 14 and 7 cells. At 224x224 pixels both are equal; for
    larger images, ``kernel_image_size=224`` gives the kernels of the official code. No weights and no detectors or
    segmentors were published.

    Args:
        arch: ``'tiny'``, or a dict of :class:`Arch`'s arguments for another size.
        in_channels: Channels of the images.
        out_indices: Stages whose feature maps are returned, in ascending order from 0. Later stages are not built.
        out_norm: Whether each returned map goes through a LayerNorm of its own, as in ConvNeXt's detectors and
            segmentors.
        drop_path_rate: Probability that a branch of the last block is skipped for a sample in training (stochastic
            depth). The probability grows linearly over the blocks, from 0 at the first.
        frozen_stages: -1 trains everything, 0 freezes the stem, k the stem and the first k stages. Output norms are
            always trained.
        with_cp: Whether blocks are recomputed in the backward pass to save memory (activation checkpointing).
        kernel_image_size: Height and width, in pixels, of the images at whose maps the kernels of the stages are cut,
            such as 224; ``None`` for kernels as long as the map. Those of the stem always reach 16 pixels.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` loads pretrained weights from ``hf-hub:<repository>``, a
            URL or a file, and refuses weights that do not fit; ``None`` leaves the weights random.

    Raises:
        UserError: For an unknown ``arch``, or arguments that do not fit it.

    Example:
        >>> backbone = S4NDConvNeXt('tiny')
        >>> [tuple(f.shape) for f in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 96, 16, 24), (1, 192, 8, 12), (1, 384, 4, 6), (1, 768, 2, 3)]
    """

    convert_state_dict = staticmethod(our_names)

    def __init__(
        self,
        arch: str | Mapping = 'tiny',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: bool = True,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        kernel_image_size: int | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        arch = get_arch('S4NDConvNeXt', arch, ARCHS)
        rates = iter(drop_path_rates('S4NDConvNeXt', drop_path_rate, sum(arch.depths)))
        limits = [0] * len(arch.dims)  # of the kernels of each stage, in cells
        if kernel_image_size is not None:
            smallest = 4 * 2 ** (len(arch.dims) - 1)
            if not isinstance(kernel_image_size, int) or kernel_image_size < smallest:
                raise UserError(
                    f'S4NDConvNeXt: kernel_image_size={kernel_image_size!r} must be None or a number of pixels from '
                    f'{smallest}, such as 224'
                )
            limits = [kernel_image_size // (4 * 2**i) for i in range(len(arch.dims))]
        stem = Stem(in_channels, arch.dims[0], arch.state)
        stages, downsample = [], nn.Identity()
        for i, (depth, dim) in enumerate(zip(arch.depths, arch.dims, strict=True)):
            if i:
                downsample = Downsample(arch.dims[i - 1], dim, arch.state, limits[i - 1])
            blocks = [S4NDBlock(dim, arch.state, limits[i], next(rates)) for _ in range(depth)]
            for block in blocks:  # only these: linear layers before a GLU keep PyTorch's initialisation
                init_layers(block, nn.Linear)
            stages.append(Stage(downsample, blocks))
        super().__init__(stem, stages, arch.dims, out_indices, out_norm, frozen_stages, with_cp, init_cfg)
