"""Run a program of mmdet or mmseg that imports their operators before it reads a config, with mmcv-lite.

python -m mmengine_plugin .../site-packages/mmseg/.mim/tools/analysis_tools/browse_dataset.py CONFIG
"""

import runpy
import sys

if len(sys.argv) < 2:
    sys.exit(__doc__)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
