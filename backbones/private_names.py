"""The private names of torch that this package uses.

They have no public counterparts. They were tried with torch 2.12.1, and ``tests/backbones/test_private_names.py`` fails
if one changes. ``mmengine_plugin/compat/private_names.py`` has those of the plugins.
"""

STATE_DICT_VERSIONS = '_metadata'
"""Attribute of ``nn.Module.state_dict()`` that holds the version of each module. Without it, ``load_state_dict``
assumes the oldest version, and modules such as batch norm convert the weights."""

LINEAR_AND_ACT = '_linear_pointwise'
"""Operator of ``torch.ops.mkldnn`` that computes a linear layer and its activation in one pass, by oneDNN on a CPU. Its
arguments are the input, the weight, the bias, the name of the activation, its numbers, and its variant."""
