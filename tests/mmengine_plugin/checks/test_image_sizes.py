"""Images of several sizes in one batch are refused before the first step, and accepted where they can be stacked."""

import os
import zlib

import pytest
from mmengine.dataset import pseudo_collate

from backbones import UserError
from mmengine_plugin.checks.image_sizes import OPENED, check_image_sizes
from tests.mmengine_plugin.checks.small_samples import draw_masks, logged_warnings, part_with

SMALL, WIDE = (32, 48), (32, 96)
CROP = dict(type='RandomCrop', crop_size=(24, 24))


def preprocessed(part: object) -> object:
    """All images of a data set as one batch, as the model gets it."""
    batch = pseudo_collate([part.dataset[i] for i in range(len(part.dataset))])
    return part.model.data_preprocessor(batch, training=part.split == 'train')


def options(split: str, size: tuple[int, int], batch_size: int = 2, **settings) -> dict:
    """Options of the preprocessor and of the data loader."""
    keys = {f'model.data_preprocessor.{key}': value for key, value in settings.items()}
    return {'model.data_preprocessor.size': size, f'{split}_dataloader.batch_size': batch_size, **keys}


@pytest.fixture
def wide(tmp_path):
    """Images of one size, but for the last one."""
    return draw_masks(tmp_path / 'wide', [SMALL] * 6 + [WIDE])


@pytest.fixture
def same(tmp_path):
    """Images of one size."""
    return draw_masks(tmp_path / 'same', [SMALL] * 3)


def test_training_images_that_cannot_be_stacked_are_refused(wide):
    """mmseg's issues 3313 and 3610."""
    part = part_with('segmentation', options('train', SMALL), folder=wide)
    with pytest.raises(RuntimeError, match='stack expects each tensor to be equal size'):
        preprocessed(part)
    with pytest.raises(UserError, match=r'such as 32x48 .* and 32x96 .*6\.png\), cannot share a batch: add .*RandomC'):
        check_image_sizes(part)


@pytest.mark.parametrize(
    ('size', 'batch_size', 'pipeline'), [(WIDE, 2, []), (SMALL, 1, []), ((24, 24), 2, [CROP])], ids=str
)
def test_training_images_that_are_padded_cropped_or_alone_are_accepted(size, batch_size, pipeline, wide):
    part = part_with('segmentation', options('train', size, batch_size), folder=wide, pipeline=pipeline)
    check_image_sizes(part)
    if batch_size > 1:
        assert len(preprocessed(part)['inputs']) == 7


@pytest.mark.parametrize('split', ['val', 'test'])
def test_several_images_of_several_sizes_in_a_validation_are_refused(split, wide, same):
    """mmseg's issues 3181 and 2965."""
    part = part_with('segmentation', options(split, SMALL, 4), split, folder=wide)
    with pytest.raises(AssertionError, match='image size in a batch should be the same'):
        preprocessed(part)
    with pytest.raises(UserError, match=rf'cannot share a batch: set {split}_dataloader\.batch_size=1'):
        check_image_sizes(part)
    for accepted, folder in (
        (options(split, SMALL), same),
        (options(split, SMALL, 1), wide),
        (options(split, SMALL, 4, test_cfg=dict(size_divisor=32)), wide),
    ):
        check_image_sizes(part_with('segmentation', accepted, split, folder=folder))


@pytest.mark.parametrize(('number', 'is_refused'), [(4, False), (3, True)])
def test_images_of_several_sizes_are_accepted_in_a_validation_if_no_batch_has_two_of_them(number, is_refused, tmp_path):
    folder = draw_masks(tmp_path / 'sorted', [SMALL] * number + [WIDE] * 4)
    part = part_with('segmentation', options('val', SMALL), 'val', folder=folder)
    if is_refused:
        with pytest.raises(UserError, match=r'32x48 \(.*2\.png\) and 32x96 \(.*3\.png\)'):
            check_image_sizes(part)
        return
    check_image_sizes(part)
    for first in range(0, 8, 2):
        batch = pseudo_collate([part.dataset[i] for i in (first, first + 1)])
        part.model.data_preprocessor(batch, training=False)
    part.cfg.val_dataloader.sampler.shuffle = True
    with pytest.raises(UserError, match='cannot share a batch'):
        check_image_sizes(part)


def test_only_the_first_files_are_opened_and_one_that_is_too_large_for_pil_is_no_error(tmp_path):
    folder = draw_masks(tmp_path / 'many', [SMALL, WIDE])
    for part in ('i', 'm'):
        os.rename(folder / part / '1.png', folder / part / 'last.png')
        for number in range(1, OPENED):
            os.link(folder / part / '0.png', folder / part / f'{number}.png')
    part = part_with('segmentation', options('train', SMALL), folder=folder)
    check_image_sizes(part)
    for name in ('i', 'm'):
        (folder / name / '7.png').unlink()
    with pytest.raises(UserError, match=r'last\.png\), cannot share a batch'):
        check_image_sizes(part_with('segmentation', options('train', SMALL), folder=folder))
    image = (folder / 'i/0.png').read_bytes()
    header = image[12:16] + (60_000).to_bytes(4, 'big') * 2 + image[24:29]  # with another width and height
    (folder / 'i/8.png').unlink()
    (folder / 'i/8.png').write_bytes(image[:12] + header + zlib.crc32(header).to_bytes(4, 'big') + image[33:])
    check_image_sizes(part_with('segmentation', options('train', SMALL), folder=folder))


def test_a_crop_above_the_size_of_batches_is_reported_and_refused_only_if_an_image_is_smaller(same, tmp_path):
    crop = dict(type='RandomCrop', crop_size=(24, 40))
    part = part_with('segmentation', options('train', (24, 24)), folder=same, pipeline=[crop])
    with logged_warnings() as messages:
        check_image_sizes(part)
    (message,) = messages
    assert 'size is (24, 24), which is smaller than the training crop (24, 40)' in message
    assert preprocessed(part)['inputs'].shape[-2:] == (24, 40)
    smaller = draw_masks(tmp_path / 'smaller', [SMALL, (32, 30)])
    part = part_with('segmentation', options('train', (24, 24)), folder=smaller, pipeline=[crop])
    with pytest.raises(RuntimeError, match='stack expects each tensor to be equal size'):
        preprocessed(part)
    with pytest.raises(UserError, match=r'cannot share a batch: .* Set model\.data_preprocessor\.size=\(24, 40\)'):
        check_image_sizes(part)


def test_padding_in_each_batch_is_reported(same):
    for size, share in (((32, 32), '44% OF EACH TRAINING BATCH IS PADDING'), ((24, 24), None)):
        with logged_warnings() as messages:
            check_image_sizes(part_with('segmentation', options('train', size), folder=same, pipeline=[CROP]))
        assert len(messages) == bool(share) and all(share in message for message in messages)
