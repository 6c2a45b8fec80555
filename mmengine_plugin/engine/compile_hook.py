"""``torch.compile`` for detectors. For segmentors, mmengine's own setting ``compile`` compiles the whole step."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class CompileBackboneHook(Hook):
    """Compiles the backbone and nothing else, since the shapes in a detector's heads change with every image.

    Image sizes are symbolic, so that one compiled program serves many sizes. The names of parameters do not change.

    Args:
        **options: Arguments of ``torch.compile``; ``dynamic=True`` is the default.
    """

    def __init__(self, **options: object) -> None:
        self.options = dict(dynamic=True) | options

    def before_run(self, runner: Runner) -> None:
        """Make the first forward pass compile the backbone."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.backbone.compile(**self.options)
        print_log(f'{type(model.backbone).__name__} will be compiled in its first forward pass', 'current')
