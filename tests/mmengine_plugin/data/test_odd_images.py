"""Images that OpenCV cannot load as colour, or of which a resizing would leave nothing, are named with the reason."""

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile, Resize
from mmengine.dataset import BaseDataset
from PIL import Image

from backbones import UserError
from mmengine_plugin.data.checked_samples import CheckedSamples
from mmengine_plugin.data.image_checks import Problem, load_image
from mmengine_plugin.data.narrow_images import narrow_problem


class OneImage(CheckedSamples, BaseDataset):
    """A data set of one image."""

    def load_data_list(self) -> list[dict]:
        return [dict(img_path=self.ann_file)]


@pytest.mark.parametrize('dtype', [np.float32, np.int32])
def test_a_tiff_of_32_bits_is_named_as_such(dtype, tmp_path):
    """ultralytics' issue 5946."""
    path = str(tmp_path / 'a.tif')
    Image.fromarray((np.random.default_rng(0).random((8, 8)) * 2).astype(dtype)).save(path)
    color, unchanged = LoadImageFromFile(), LoadImageFromFile(color_type='unchanged')
    problem = load_image(path, 'color', color)
    assert isinstance(problem, Problem) and problem.kind == 'image of 32 bits a channel'
    assert not isinstance(load_image(path, 'unchanged', unchanged), Problem)
    with pytest.raises(UserError, match=r"a\.tif: image of 32 bits a channel: .*color_type='color'; stretch the val"):
        OneImage(ann_file=path, pipeline=[color])[0]
    assert OneImage(ann_file=path, pipeline=[unchanged])[0]['img'].dtype.itemsize == 4
    (tmp_path / 'b.tif').write_bytes(b'<!DOCTYPE html>')
    assert load_image(str(tmp_path / 'b.tif'), 'color', color).kind == 'no image that training can read'


def test_an_image_that_a_resizing_leaves_nothing_of_is_named_with_its_size(tmp_path):
    path, resize = str(tmp_path / 'a.png'), Resize(scale=(224, 160), keep_ratio=True)
    for height, accepted in ((4, False), (5, True)):  # 2000 pixels become 224
        cv2.imwrite(path, np.zeros((height, 2000, 3), np.uint8))
        dataset = OneImage(ann_file=path, pipeline=[LoadImageFromFile(), resize])
        if accepted:
            assert dataset[0]['img'].shape == (1, 224, 3)
            assert narrow_problem(path, (height, 2000), dataset.pipeline.transforms) is None
            continue
        with pytest.raises(cv2.error, match='inv_scale_x > 0'):
            resize(dict(img=cv2.imread(path)))
        with pytest.raises(UserError, match=r'a\.png: image that is too narrow to resize: it has 2000x4 pixels, and R'):
            dataset[0]
