"""Lists of classes and palettes that no data set can use are found in the config."""

import pytest
from mmengine.config import Config, ConfigDict

from backbones import UserError
from mmengine_plugin.cli.configs import load_config
from mmengine_plugin.data.metainfo import metainfo_problems
from tests.conftest import DETECTION, SEGMENTATION

RED, BLUE = (220, 40, 40), (40, 60, 220)


def problems(scope: str, metainfo: dict) -> list[str]:
    """The problems of a config whose training set, in a wrapper, has this ``metainfo``."""
    data = ConfigDict(type='RepeatDataset', dataset=dict(metainfo=metainfo))
    return list(metainfo_problems(Config(dict(default_scope=scope, train_dataloader=dict(dataset=data)))))


@pytest.mark.parametrize(
    ('scope', 'metainfo', 'message'),
    [
        ('mmdet', dict(classes=('cat', 'dog')), None),
        ('mmseg', dict(classes=('ground', 'ground', 'thing')), ".classes has 'ground' more than once"),
        ('mmdet', dict(classes=('cat', 'dog', 'dog')), ".classes has 'dog' more than once"),
        ('mmdet', dict(classes=('cat', 'dog'), palette=[RED]), '.palette and classes differ in length, 1 and 2'),
        ('mmseg', dict(classes=('cat', 'dog'), palette=[RED]), '.palette and classes differ in length, 1 and 2'),
        ('mmdet', dict(classes=('cat',), palette=[RED, BLUE]), None),  # mmdet takes the first ones
        ('mmseg', dict(classes=('cat',), palette=[RED, BLUE]), '.palette and classes differ in length, 2 and 1'),
        ('mmseg', dict(classes=('cat', 'dog'), palette='cityscapes'), ".palette is 'cityscapes': write a list"),
        ('mmdet', dict(classes=('cat', 'dog'), palette='random'), None),  # mmdet knows names
        ('mmseg', dict(classes=('cat', 'dog'), palette=[RED, BLUE]), None),
        ('mmseg', dict(classes='names.txt'), None),  # the data set reads a file
    ],
    ids=str,
)
def test_names_that_occur_twice_and_palettes_of_another_length_are_found(scope, metainfo, message):
    """mmdet's issues 11457 and 10302, mmseg's issue 3371."""
    found = problems(scope, metainfo)
    if message is None:
        assert found == []
    else:
        assert len(found) == 1 and found[0].startswith('train_dataloader.dataset.dataset.metainfo' + message), found


@pytest.mark.parametrize('path', [DETECTION, SEGMENTATION])
def test_a_program_refuses_a_class_that_occurs_twice(path):
    with pytest.raises(UserError, match="has 'a' more than once"):
        load_config(str(path), {'val_dataloader.dataset.metainfo': dict(classes=('a', 'a'))})
