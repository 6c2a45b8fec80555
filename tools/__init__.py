"""The programs; in an installed package they are `python -m mmengine_plugin.tools.<name>`."""

import sys

sys.path.append(__path__[0])  # where they find `doctor`, as they do when started by their path
