"""Weights in checkpoints, under the names that wrappers of models gave to them."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence

from torch import Tensor

from .private_names import STATE_DICT_VERSIONS

# keys under which programs save weights: mmengine, timm and Lightning; the authors of backbones; PyTorch's tutorials;
# timm's averaged weights
SECTIONS = ('state_dict', 'model', 'model_state_dict', 'state_dict_ema')
DATA_PARALLEL, COMPILED = 'module.', '_orig_mod.'


def weights_of(checkpoint: Mapping) -> Mapping[str, Tensor]:
    """The weights in a checkpoint: those below the first of ``SECTIONS`` that it has, or else all of it."""
    for key in SECTIONS:
        if isinstance(checkpoint.get(key), Mapping):
            return checkpoint[key]
    return checkpoint


def renamed(
    state: Mapping[str, Tensor], names: Sequence[tuple[str, str | Callable[[re.Match], str]]]
) -> dict[str, Tensor]:
    """Rename weights.

    Args:
        state: The weights.
        names: Regular expressions and what replaces their matches, as in :func:`re.sub`, applied in this order.
    """
    out = {}
    for key, value in state.items():
        for pattern, replacement in names:
            key = re.sub(pattern, replacement, key)
        out[key] = value
    return out


def unwrapped(state: Mapping[str, Tensor], expected: Collection[str] = ()) -> OrderedDict[str, Tensor]:
    """Weights without what wrappers of the model added to their names.

    ``DataParallel`` and timm's averaged model put ``module.`` before all names, together ``module.module.``.
    ``torch.compile`` puts ``_orig_mod.`` before those of the compiled module, and a wrapper such as Lightning's puts
    its attribute, often ``model.``, before all names.

    Args:
        state: The weights.
        expected: Names of the model. A common first part of all names in ``state`` is removed if no name of the model
            begins with it.

    Returns:
        The weights under their new names, in the same order, with the versions of their modules.
    """
    plain = [key.replace(COMPILED, '') for key in state]
    prefix = ''
    while any(key.startswith(prefix + DATA_PARALLEL) for key in plain):
        prefix += DATA_PARALLEL
    firsts = {key.removeprefix(prefix).split('.')[0] + '.' for key in plain}
    common = ''
    if len(firsts) == 1 and expected and not any(key.startswith(tuple(firsts)) for key in expected):
        common = firsts.pop()

    def rename(name: str) -> str:
        return name.replace(COMPILED, '').removeprefix(prefix).removeprefix(common)

    out = OrderedDict((rename(key), value) for key, value in state.items())
    if hasattr(state, STATE_DICT_VERSIONS):
        versions = getattr(state, STATE_DICT_VERSIONS)
        # modules are named without the dot at the end
        named = OrderedDict((rename(f'{name}.').removesuffix('.'), version) for name, version in versions.items())
        setattr(out, STATE_DICT_VERSIONS, named)
    return out
