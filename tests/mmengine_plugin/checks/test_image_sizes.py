"""Images of several sizes in one batch are refused before the first step, and accepted where they can be stacked."""

import pytest
from mmengine.dataset import pseudo_collate

from backbones import UserError
from mmengine_plugin.checks.image_sizes import check_image_sizes
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
    part = part_with('segmentation', options(split, SMALL), split, folder=wide)
    with pytest.raises(AssertionError, match='image size in a batch should be the same'):
        preprocessed(part)
    with pytest.raises(UserError, match=rf'cannot share a batch: set {split}_dataloader\.batch_size=1'):
        check_image_sizes(part)
    for accepted, folder in (
        (options(split, SMALL), same),
        (options(split, SMALL, 1), wide),
        (options(split, SMALL, test_cfg=dict(size_divisor=32)), wide),
    ):
        check_image_sizes(part_with('segmentation', accepted, split, folder=folder))


def test_padding_in_each_batch_is_reported(same):
    for size, share in (((32, 32), '44% OF EACH TRAINING BATCH IS PADDING'), ((24, 24), None)):
        with logged_warnings() as messages:
            check_image_sizes(part_with('segmentation', options('train', size), folder=same, pipeline=[CROP]))
        assert len(messages) == bool(share) and all(share in message for message in messages)
