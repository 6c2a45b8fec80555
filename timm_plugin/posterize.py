"""timm's posterization with newer versions of Pillow.

``rand-m9-mstd0.5-inc1`` keeps no bit of about one image in 300, which Pillow turned black up to version 12. Version 13
refuses to, and timm 1.0.31 does not know that: the training would end with an error within its first batches.
"""

from __future__ import annotations

from PIL import Image
from timm.data import auto_augment


def posterize(image: Image.Image, bits_to_keep: int, **kwargs: object) -> Image.Image:
    """timm's posterization; an image that keeps no bit becomes black, as with Pillow up to version 12."""
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return auto_augment.posterize(image, bits_to_keep, **kwargs)


auto_augment.NAME_TO_OP.update(dict.fromkeys(('Posterize', 'PosterizeIncreasing', 'PosterizeOriginal'), posterize))
