"""The private name of torch that this package uses.

It has no public counterpart. It was tried with torch 2.12.1, and ``tests/backbones/test_private_names.py`` fails if it
changes. ``mmengine_plugin/compat/private_names.py`` has those of the plugins.
"""

STATE_DICT_VERSIONS = '_metadata'
"""Attribute of ``nn.Module.state_dict()`` that holds the version of each module. Without it, ``load_state_dict``
assumes the oldest version, and modules such as batch norm convert the weights."""
