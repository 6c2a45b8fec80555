"""The compiled code of Triton kernels for a GPU that need not be there: registers, spills, instructions, accesses.

Kernels are recorded where they are launched, so what is compiled is what would run: with the dtypes, the divisibility
of sizes and the constants of that launch. The launching function gets meta tensors, which hold no data.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

PROGRAMS = Path(triton.__file__).parent / 'backends/nvidia/bin'  # NVIDIA's disassemblers, in Triton's wheel
INSTRUCTION = re.compile(r'^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+ )?([A-Z][\w.]*)')
LABEL = re.compile(r'^(\.L_x_\d+):')
BRANCH = re.compile(r'\bBRA\b.*`\((\.L_x_\d+)\)')
ACCESS = re.compile(r'^(LDG|STG)\b')
WIDTHS = {'U8': 8, 'S8': 8, 'U16': 16, 'S16': 16, '64': 64, '128': 128}  # bits; 32 without a suffix


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiled code of one kernel looks like.

    Args:
        name: Name of the kernel.
        warps: Warps of a program.
        registers: Registers of a thread.
        spilled: Bytes of a thread's registers that had to be moved to memory.
        shared: Bytes of shared memory of a program.
        instructions: Names of all instructions with their suffixes, in order.
        looped: For each instruction, the number of loops around it.
    """

    name: str
    warps: int
    registers: int
    spilled: int
    shared: int
    instructions: tuple[str, ...]
    looped: tuple[int, ...]

    def count(self, *names: str, depth: int = 0) -> int:
        """Number of instructions that have one of these names (all without a name), inside ``depth`` loops or more."""
        return sum(
            loops >= depth and (not names or name.split('.')[0] in names)
            for name, loops in zip(self.instructions, self.looped, strict=True)
        )

    def accesses(self, depth: int = 0) -> dict[int, int]:
        """Number of global loads and stores by their width in bits, inside ``depth`` loops or more."""
        found: dict[int, int] = {}
        for name, loops in zip(self.instructions, self.looped, strict=True):
            if loops >= depth and ACCESS.match(name):
                width = next((WIDTHS[part] for part in name.split('.') if part in WIDTHS), 32)
                found[width] = found.get(width, 0) + 1
        return dict(sorted(found.items()))


@contextlib.contextmanager
def recorded(capability: int) -> Iterator[list[Compiled]]:
    """Compile each Triton kernel that is launched, once for each specialisation, and do not run it.

    Args:
        capability: The GPU's compute capability: 80 for A100, 90 for H100 and H200.

    Yields:
        The compiled kernels, in the order of their first launches.
    """
    kernels: dict[str, Compiled] = {}
    stand_in = SimpleNamespace(
        get_current_target=lambda: GPUTarget('cuda', capability, 32),
        get_current_device=lambda: capability,  # kernels are cached by device
        get_current_stream=lambda device: 0,
    )
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: object, grid: object, warmup: bool, **kwargs: object) -> object:
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        if kernel.hash not in kernels:
            kernels[kernel.hash] = analyze(kernel.metadata.name, kernel.metadata.num_warps, kernel.asm['cubin'])
        return kernel

    found: list[Compiled] = []
    with patch.object(type(driver), 'active', stand_in), patch.object(JITFunction, 'run', compile_only):
        yield found
    found.extend(kernels.values())


def analyze(name: str, warps: int, cubin: bytes) -> Compiled:
    """Disassemble a kernel."""
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(cubin)
        file.flush()
        usage = _output('cuobjdump', '-res-usage', file.name)
        code = _output('nvdisasm', '-c', file.name)
    used = {key: int(value) for key, value in re.findall(r'(REG|STACK|LOCAL|SHARED):(\d+)', usage)}
    names, labels, loops = [], {}, []
    for line in code.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(names)
        elif instruction := INSTRUCTION.match(line):
            names.append(instruction[1])
            if (branch := BRANCH.search(line)) and branch[1] in labels:  # backwards
                loops.append(range(labels[branch[1]], len(names)))
    while names and names[-1] == 'NOP':  # padding
        names.pop()
    # the code ends with a branch to itself, which is no loop
    loops = [loop for loop in loops if len(loop) > 1]
    looped = tuple(sum(i in loop for loop in loops) for i in range(len(names)))
    return Compiled(name, warps, used['REG'], used['STACK'] + used['LOCAL'], used['SHARED'], tuple(names), looped)


def _output(program: str, *arguments: str) -> str:
    return subprocess.run([PROGRAMS / program, *arguments], check=True, capture_output=True, text=True).stdout
