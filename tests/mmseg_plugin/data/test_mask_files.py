"""Masks of any depth are read as mmseg reads 8 bits, or refused, and sizes and decoders are checked."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

import mmseg_plugin  # noqa: F401
from backbones import UserError
from mmengine_plugin.data.image_checks import Problem, check_image, load_image
from mmseg_plugin.data.load_masks import LoadMasks
from tools.check_dataset import find_problems

LABELS = np.random.RandomState(0).randint(0, 2, (24, 32)).astype(np.uint8)
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]


def settings(root: Path, mask: Image.Image, name: str = '0.png', image: Image.Image | None = None, **changes) -> dict:
    """The settings of a FolderDataset with one image and one mask, which are written first."""
    for folder in ('i', 'm'):
        (root / folder).mkdir()
    image = image or Image.new('RGB', mask.size)
    image.save(root / 'i/0.jpg', exif=image.getexif())
    mask.save(root / 'm' / name, **({'bits': 4} if mask.mode == 'P' else {}))
    init_default_scope('mmseg')
    classes = dict(metainfo=dict(classes=('a', 'b')), serialize_data=False)  # serializing takes most of the time
    data = dict(type='FolderDataset', data_root=str(root), **classes, pipeline=PIPELINE)
    return data | dict(data_prefix=dict(img_path='i', seg_map_path='m')) | changes


def labels_of(config: dict) -> np.ndarray:
    return DATASETS.build(config)[0]['data_samples'].gt_sem_seg.data[0].numpy()


def kinds(config: dict) -> list[str]:
    problems = find_problems(Config(dict(default_scope='mmseg', train_dataloader=dict(dataset=config))))
    return [problem.kind for problem in problems]


def four_bit_palette() -> Image.Image:
    mask = Image.fromarray(LABELS, 'P')
    mask.putpalette([9, 9, 9, 250, 120, 30])
    return mask


@pytest.mark.parametrize(
    ('mask', 'name', 'changes'),
    [
        (Image.fromarray(LABELS > 0), '0.png', dict()),
        (four_bit_palette(), '0.png', dict()),
        (Image.fromarray(LABELS.astype(np.uint16)), '0.png', dict()),
        (Image.fromarray(LABELS.astype(np.int32)), '0.tif', dict()),
        (Image.fromarray(LABELS.astype(np.float32)), '0.tif', dict()),
        (Image.fromarray(LABELS), '0.tif', dict()),
        (Image.fromarray(np.dstack([LABELS * 255] * 3)), '0.png', dict(values=(0, 255))),
        (Image.fromarray(np.dstack([LABELS * 255] * 3 + [LABELS])), '0.png', dict(values=(0, 255))),
        (Image.fromarray(np.dstack([LABELS, LABELS * 200])), '0.png', dict()),
    ],
    ids=['1 bit', '4 bits', '16 bits', '32 bits', 'floats', 'tiff', 'grey as rgb', 'grey as rgba', 'grey with alpha'],
)
def test_masks_of_any_depth_hold_the_labels_that_they_hold_in_8_bits(tmp_path, mask, name, changes):
    config = settings(tmp_path, mask, name, **changes)
    assert (labels_of(config) == LABELS).all()
    assert kinds(config) == []


@pytest.mark.parametrize(
    ('pixels', 'name', 'worst'),
    [
        (LABELS.astype(np.uint16) + 299, '0.png', '300'),
        (LABELS.astype(np.int32) * 70000, '0.tif', '70000'),
        (LABELS.astype(np.float32) / 2, '0.tif', '0.5'),
    ],
)
def test_values_that_8_bits_cannot_hold_are_refused(tmp_path, pixels, name, worst):
    config = settings(tmp_path, Image.fromarray(pixels), name)
    with pytest.raises(UserError, match=f'm/{name}: it has the value {worst}, and labels go from 0 to 255'):
        labels_of(config)
    assert kinds(config) == ['label map of more than 8 bits']


@pytest.mark.parametrize('reduced', [False, True])
@pytest.mark.parametrize('label_map', [None, {0: 254, 1: 0, 7: 1, 9: 255}])
def test_labels_are_those_of_mmseg(tmp_path, reduced, label_map):
    path = tmp_path / '0.png'
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(path)
    found = []
    for loader in (LoadMasks(), LoadAnnotations()):
        sample = dict(seg_map_path=str(path), reduce_zero_label=reduced, label_map=label_map, seg_fields=[])
        found.append(loader(sample))
    assert (found[0]['gt_seg_map'] == found[1]['gt_seg_map']).all()
    assert found[0]['seg_fields'] == found[1]['seg_fields'] and found[0]['gt_seg_map'].dtype == np.uint8


def turned_photo(width: int, height: int) -> Image.Image:
    """A photo that viewers, and OpenCV, show turned by 90 degrees."""
    image = Image.new('RGB', (width, height))
    image.getexif()[0x0112] = 6
    return image


@pytest.mark.parametrize(
    ('photo', 'color_type', 'kind', 'words'),
    [
        (turned_photo(32, 24), 'color', 'image that EXIF turns away from its labels', 'EXIF'),
        (turned_photo(32, 24), 'color_ignore_orientation', None, None),
        (turned_photo(24, 32), 'color', None, None),
        (
            turned_photo(24, 32),
            'color_ignore_orientation',
            'image that EXIF turns like its labels, but the loader does not',
            'EXIF',
        ),
        (Image.new('RGB', (33, 24)), 'color', 'image of another size than its labels', '32x24 pixels, .* 33x24'),
        (Image.new('RGB', (24, 32)), 'color', 'image of another size than its labels', '32x24 pixels, .* 24x32'),
    ],
)
def test_a_mask_of_another_size_is_refused_before_a_crop_can_hide_it(tmp_path, photo, color_type, kind, words):
    load = [dict(type='LoadImageFromFile', color_type=color_type), dict(type='LoadAnnotations')]
    crop = dict(type='RandomCrop', crop_size=(16, 16))
    config = settings(tmp_path, Image.fromarray(LABELS), image=photo, pipeline=[*load, crop, PIPELINE[-1]])
    assert kinds(config) == ([kind] if kind else [])
    if kind:
        with pytest.raises(UserError, match=f'm/0.png has .*{words}'):
            labels_of(config)
    else:
        assert labels_of(config).shape == (16, 16)


def test_a_stock_pipeline_is_checked_after_its_last_step(tmp_path):
    config = settings(tmp_path, Image.fromarray(LABELS), image=Image.new('RGB', (40, 40)), type='CheckedADE20KDataset')
    del config['metainfo']
    with pytest.raises(UserError, match='is 1x24x32 after the pipeline, and its image is 40x40'):
        labels_of(config)


def test_the_check_reads_images_by_the_decoder_of_the_pipeline(tmp_path):
    load = [dict(type='LoadImageFromFile', imdecode_backend='pillow'), dict(type='LoadAnnotations')]
    config = settings(tmp_path, Image.fromarray(LABELS), pipeline=[*load, PIPELINE[-1]])
    assert kinds(config) == []
    dark = Image.fromarray(np.full((24, 32), 4000, np.uint16))
    dark.save(tmp_path / 'i/0.png')
    (tmp_path / 'i/0.jpg').unlink()
    assert kinds(config) == ['image of 16 bits a channel']
    (tmp_path / 'i/0.png').write_bytes(b'<html>')
    assert kinds(config) == ['no image that training can read']


@pytest.mark.parametrize(
    ('backend', 'words'), [('tifffile', 'type `pip install tifffile`'), ('opencv', 'is unknown: write one of cv2')]
)
def test_a_decoder_that_is_not_installed_is_named(tmp_path, backend, words):
    load = [dict(type='LoadImageFromFile', imdecode_backend=backend), dict(type='LoadAnnotations')]
    config = settings(tmp_path, Image.fromarray(LABELS), pipeline=[*load, PIPELINE[-1]])
    for run in (kinds, labels_of):
        with pytest.raises(UserError, match=f"imdecode_backend='{backend}' of LoadImageFromFile .*{words}"):
            run(config)


@pytest.mark.parametrize(('backend', 'fix'), [('pillow', "imdecode_backend='cv2'"), ('cv2', 'IO_MAX_IMAGE_PIXELS')])
def test_an_image_that_is_too_large_for_its_decoder_is_named(tmp_path, backend, fix):
    path = tmp_path / 'large.png'
    content = io.BytesIO()
    Image.new('1', (32, 24)).save(content, 'png')
    header = b'IHDR' + struct.pack('>IIBBBBB', 40000, 30000, 1, 0, 0, 0, 0)
    start = content.getvalue().index(b'IHDR')
    content.seek(start)
    content.write(header + struct.pack('>I', zlib.crc32(header)))
    path.write_bytes(content.getvalue())
    (problem,) = check_image(str(path), LoadImageFromFile(imdecode_backend=backend), None, '')
    assert problem.kind == f'image that is too large for the decoder {backend}' and fix in problem.fix


def test_opencv_reads_an_image_that_is_too_large_for_pillow(tmp_path, monkeypatch):
    path = tmp_path / 'large.png'
    Image.new('RGB', (200, 100)).save(path)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    assert list(check_image(str(path), LoadImageFromFile(), (100, 200), '')) == []
    assert isinstance(load_image(str(path), 'color', LoadImageFromFile(imdecode_backend='pillow')), Problem)
