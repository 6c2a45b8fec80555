"""``torch.compile`` where it pays in detection; for segmentation, mmengine's own ``compile`` takes the whole step."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class CompileBackboneHook(Hook):
    """Compiles the backbone and nothing else: behind it, the shapes of a detector's tensors change with every image.

    Sizes of images are symbols, so that other sizes are not other programs. Names of parameters stay as they are.

    Args:
        **options: Of ``torch.compile``.
    """

    def __init__(self, **options: object) -> None:
        self.options = dict(dynamic=True) | options

    def before_run(self, runner: Runner) -> None:
        """Let the first forward pass compile."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.backbone.compile(**self.options)
        print_log(f'{type(model.backbone).__name__} will be compiled in its first forward pass', 'current')
