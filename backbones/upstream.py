"""Private names of torch, timm and mmengine that this package uses.

Each has no public counterpart. It was tried on torch 2.12.1, timm 1.0.31 and mmengine 0.11.0rc3, and
``tests/backbones/test_upstream.py`` fails by name if it changes.
"""

STATE_DICT_VERSIONS = '_metadata'
"""Attribute of ``nn.Module.state_dict()`` that holds the version of each module. Without it, ``load_state_dict``
assumes the oldest version, and modules such as batch norm convert the weights."""
