"""Run a test program, and write how long its phases took.

python -m benchmarks.timed_program PHASES.json PROGRAM ARGUMENTS...
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

from mmengine.dataset import BaseDataset
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.runner import Runner

import mmengine_plugin  # noqa: F401  (provides mmcv's operators, also to a program that does not know it)

from .host_times import Functions, timed

# a part of another phase names it first
PHASES: Functions = {
    'building the model': (Runner, 'build_model'),
    'reading the annotations': (Runner, 'build_test_loop'),
    'reading the checkpoint': (Runner, 'load_or_resume'),
    'hooks': (Runner, 'call_hook'),
    'loading the images': (BaseDataset, '__getitem__'),
    'model': (BaseModel, 'test_step'),
    'masks to run lengths': (Evaluator, 'process'),
    'scoring': (Evaluator, 'evaluate'),
}


def main() -> None:
    """Run the program as Python would, and write the seconds of each phase."""
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead  # after mmengine_plugin

    out, program, *arguments = sys.argv[1:]
    sys.argv = [program, *arguments]
    sys.path.insert(0, str(Path(program).parent))
    with timed(PHASES | {'model: drawing the masks': (FCNMaskHead, 'predict_by_feat')}) as seconds:
        runpy.run_path(program, run_name='__main__')
    Path(out).write_text(json.dumps(seconds))


if __name__ == '__main__':
    main()
