"""The compiled code of all Triton kernels, for GPUs that need not be there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from backbones.errors import UserError

from . import gate_launches, scan_launches
from .compiled import Compiled, recorded

CAPABILITIES = {80: 'A100', 90: 'H100'}


def _widths(counts: dict[int, int]) -> str:
    """Accesses by their width, such as ``24 of 128, 2 of 16``."""
    return ', '.join(f'{count} of {bits}' for bits, count in reversed(counts.items()))


def _per_output(kernel: Compiled) -> str:
    """Executed instructions for each output of a convolution, empty for another kernel."""
    count = gate_launches.instructions_per_output(kernel)
    return '' if count is None else f'{count:.1f}'


# the columns of the report after the kernel's name
FIGURES: dict[str, Callable[[Compiled], object]] = {
    'warps': lambda kernel: kernel.warps,
    'registers': lambda kernel: kernel.registers,
    'spilled bytes': lambda kernel: kernel.spilled,
    'shared bytes': lambda kernel: kernel.shared,
    'instructions': lambda kernel: kernel.count(),
    'in loops': lambda kernel: kernel.count(depth=1),
    'executed for each output': _per_output,
    'FMA in loops': lambda kernel: f'{kernel.count("FFMA", depth=1) / max(kernel.count(depth=1), 1):.0%}',
    'FMA': lambda kernel: f'{kernel.count("FFMA") / kernel.count():.0%}',
    'accesses in loops by bits': lambda kernel: _widths(kernel.accesses(depth=1)),
    'accesses by bits': lambda kernel: _widths(kernel.accesses()),
    'barriers': lambda kernel: kernel.count('BAR'),
    'shuffles': lambda kernel: kernel.count('SHFL'),
}


def measure_compiled_kernels() -> Iterator[dict]:
    """Compile what the gated CNN block and the selective scan launch; yields a row for each kernel and each GPU.

    Raises:
        UserError: If the environment makes Triton interpret kernels.
    """
    if 'TRITON_INTERPRET' in os.environ:
        raise UserError('--suites compiled: TRITON_INTERPRET is set, so kernels are not compiled; unset it')
    for capability, gpu in CAPABILITIES.items():
        for module in (gate_launches, scan_launches):
            for what, launch in module.launches():
                with recorded(capability) as kernels:
                    launch()
                for kernel in kernels:
                    row = dict(suite='compiled', GPU=gpu, what=what, kernel=kernel.name)
                    yield row | {name: figure(kernel) for name, figure in FIGURES.items()}
