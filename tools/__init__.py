"""The programs. An installed package has them as `python -m mmengine_plugin.tools.<name>`."""

import sys

sys.path.append(__path__[0])  # so that they find `doctor`, as if they were started by their path
