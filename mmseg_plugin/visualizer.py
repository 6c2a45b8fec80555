"""mmseg's visualizer for images of any memory layout."""

import numpy as np
from mmseg.registry import VISUALIZERS
from mmseg.visualization import SegLocalVisualizer


@VISUALIZERS.register_module()
class ContiguousSegVisualizer(SegLocalVisualizer):
    """SegLocalVisualizer, which also draws on the images of mmseg's ``browse_dataset.py``.

    These are views of permuted tensors, and OpenCV only draws on contiguous arrays.
    """

    def add_datasample(self, name: str, image: np.ndarray, *args, **kwargs) -> None:
        """Draw on a contiguous copy of an ``(H, W, 3)`` image."""
        super().add_datasample(name, np.ascontiguousarray(image), *args, **kwargs)
