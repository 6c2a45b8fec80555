"""mmseg's drawings, for images of any memory layout."""

import numpy as np
from mmseg.registry import VISUALIZERS
from mmseg.visualization import SegLocalVisualizer


@VISUALIZERS.register_module()
class ContiguousSegVisualizer(SegLocalVisualizer):
    """SegLocalVisualizer that takes the images of mmseg's own ``browse_dataset.py``, which OpenCV refuses to draw on.

    They are views of permuted tensors; OpenCV writes into contiguous arrays alone.
    """

    def add_datasample(self, name: str, image: np.ndarray, *args, **kwargs) -> None:
        """Draw on a contiguous copy of an ``(H, W, 3)`` image."""
        super().add_datasample(name, np.ascontiguousarray(image), *args, **kwargs)
