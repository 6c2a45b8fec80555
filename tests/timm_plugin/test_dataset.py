"""Images come as timm gives them, bit for bit, and data that cannot be used are refused."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS
from PIL import Image
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.data.auto_augment import NAME_TO_OP, AugmentOp

from backbones.errors import UserError
from mmengine_plugin import config
from mmengine_plugin.engine.sampling import seeded
from timm_plugin.collate import collate_images
from timm_plugin.dataset import TimmDataset, published_settings

CFG = Config.fromfile(config('imagenet_mambaout_tiny'))
TEST = dict(CFG.val_dataloader.dataset.transform)


@pytest.fixture
def root(tmp_path) -> Path:
    """Two classes with pictures of several sizes, modes and formats, in train/ and val/."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for name in ('cat', 'dog'):
            folder = tmp_path / 'data' / split / name
            folder.mkdir(parents=True)
            for i, (size, mode) in enumerate([((60, 90), 'RGB'), ((250, 231), 'L'), ((300, 224), 'RGBA')]):
                image = Image.fromarray(rng.integers(0, 256, (*size, 4), dtype=np.uint8), 'RGBA').convert(mode)
                image.save(folder / f'{i}.png')
    return tmp_path / 'data'


def preprocessed(dataset: TimmDataset) -> dict:
    """All samples of a data set as one batch, as the model gets it in a test."""
    batch = collate_images([dataset[i] for i in range(len(dataset))])
    return MODELS.build(CFG.model.data_preprocessor)(batch)


def timms(root: Path, **arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
    """The images and labels of timm's own loader of a validation."""
    loader = create_loader(create_dataset('', root, 'val'), batch_size=99, device=torch.device('cpu'), **arguments)
    ((images, labels),) = loader
    return images, labels


@pytest.mark.parametrize(
    'transform', [TEST, TEST | dict(input_size=288), dict(input_size=96, crop_pct=0.875, interpolation='bilinear')]
)
def test_a_test_gets_timms_images_bit_for_bit(root, transform):
    batch = preprocessed(TimmDataset(str(root), 'val', transform))
    arguments = dict(transform, input_size=(3, transform['input_size'], transform['input_size']))
    images, labels = timms(root, **arguments)
    assert torch.equal(batch['inputs'], images) and torch.equal(batch['labels'], labels)
    assert not torch.equal(batch['inputs'], timms(root, **arguments | dict(interpolation='nearest'))[0])


@pytest.mark.parametrize('tag', timm.list_pretrained('mambaout*'))
def test_published_weights_have_their_own_test_size_crop_and_interpolation(tag, root):
    settings = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(tag).to_dict(), use_test_size=True)
    images, _ = timms(root, **{key: settings[key] for key in ('input_size', 'interpolation', 'crop_pct', 'crop_mode')})
    assert torch.equal(preprocessed(TimmDataset(str(root), 'val', dict(pretrained_cfg=tag)))['inputs'], images)
    preprocessor = CFG.model.data_preprocessor
    assert preprocessor.mean == pytest.approx([255 * x for x in settings['mean']])
    assert preprocessor.std == pytest.approx([255 * x for x in settings['std']])


def test_the_config_of_timms_own_sizes_tests_as_timm_does(root):
    cfg = Config.fromfile(config('imagenet_mambaout_rw'))
    settings = dict(cfg.test_dataloader.dataset.transform)
    assert settings == dict(pretrained_cfg='mambaout_base_plus_rw.sw_e150_r384_in12k_ft_in1k')
    assert TimmDataset(str(root), 'val', settings)[0]['inputs'].shape == (3, 384, 384)
    assert cfg.model.backbone.arch == 'base_plus_rw' and cfg.val_dataloader.dataset.transform.input_size == 224


def test_the_papers_sizes_are_published_with_the_recipes_test_settings():
    for size in ('femto', 'kobe', 'tiny', 'small', 'base'):
        published = published_settings(f'mambaout_{size}.in1k')
        assert published == TEST | dict(input_size=published['input_size'], crop_mode='center'), size
    assert published_settings('mambaout_small_rw.sw_e450_in1k')['input_size'] == (3, 288, 288)


def test_training_images_are_timms_for_the_same_random_numbers(root):
    ours = TimmDataset(str(root), 'train', dict(CFG.train_dataloader.dataset.transform))
    twin = create_dataset('', root, 'train')
    twin.transform = ours.transform
    for i in range(len(ours)):
        with seeded(i):
            image, label = twin[i]
        with seeded(i):
            sample = ours[i]
        assert (
            torch.equal(sample['inputs'], image)
            and sample['label'] == label
            and sample['inputs'].shape == (3, 224, 224)
        )
    with seeded(len(ours)):
        assert not torch.equal(ours[i]['inputs'], image)


def test_a_tar_gives_the_samples_of_its_folder(root):
    with tarfile.open(root / 'val.tar', 'w') as tar:
        tar.add(root / 'val', arcname='.')
    folder, tar = TimmDataset(str(root), 'val', TEST), TimmDataset(str(root / 'val.tar'), 'val', TEST)
    assert tar.metainfo == folder.metainfo == dict(classes=('cat', 'dog')) and len(tar) == len(folder) == 6
    for i in range(6):
        assert torch.equal(tar[i]['inputs'], folder[i]['inputs']) and tar[i]['label'] == folder[i]['label']


def test_a_class_map_sets_the_order_of_the_classes(root):
    (root / 'classes.txt').write_text('dog\nwolf\ncat\n')
    dataset = TimmDataset(str(root), 'val', TEST, class_map=str(root / 'classes.txt'))
    assert dataset.metainfo == dict(classes=('dog', 'wolf', 'cat'))
    assert [dataset[i]['label'] for i in range(len(dataset))] == [2, 2, 2, 0, 0, 0]


def test_an_image_that_cannot_be_read_is_named_and_not_replaced_by_another(root):
    path = root / 'val/cat/1.png'
    path.write_bytes(path.read_bytes()[:2000])
    dataset = TimmDataset(str(root), 'val', TEST)
    with pytest.raises(UserError, match=r'val/cat/1.png cannot be read .*: replace or remove it'):
        dataset[1]
    assert dataset[0]['img_path'].endswith('val/cat/0.png')
    assert create_dataset('', root, 'val')[1][1] == 0  # timm gives the next image


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(root='nowhere'), 'nowhere does not exist: put train/<class>/ and val/<class>/ there'),
        (dict(split='test'), 'has no folder test/ with one folder for each class'),
        (dict(name='wds/imagenet'), 'is not a data set whose samples have numbers'),
        (dict(name='hfds/imagenet'), 'needs another package|cannot be read'),
        (dict(transform=dict(input_sise=224)), "input_sise.* cannot be used by timm's create_transform"),
        (dict(transform=dict(is_training=True, auto_augment='rand-x9')), 'create_transform'),
        (dict(transform=dict(pretrained_cfg='mambaout_tinny.in1k')), r"did you mean 'mambaout_tiny.in1k'"),
        (dict(class_map='none.txt'), 'cannot be read'),
    ],
)
def test_what_cannot_be_used_is_refused(root, arguments, message):
    with pytest.raises(UserError, match=message):
        TimmDataset(**dict(root=str(root), split='val', transform=TEST) | arguments)


def test_a_folder_without_images_is_refused(root, tmp_path):
    (tmp_path / 'empty/val/cat').mkdir(parents=True)
    with pytest.raises(UserError, match=r'empty \(val\) cannot be read: Found 0 images'):
        TimmDataset(str(tmp_path / 'empty'), 'val', TEST)


@pytest.mark.parametrize('name', sorted(NAME_TO_OP))
def test_every_augmentation_works_at_every_level(name):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    for level in (0, 5, 9, 9.9, 10):
        hparams = dict(translate_const=10, img_mean=(124, 116, 104))
        assert AugmentOp(name, prob=1, magnitude=level, hparams=hparams)(image).size == image.size


def test_posterization_without_bits_is_black_as_with_older_versions_of_pillow():
    image = Image.fromarray(np.full((4, 5, 3), 255, np.uint8))
    for level, brightest in ((10, 0), (9, 0b10000000), (0, 0b11110000)):  # levels 10, 9 and 0 keep 0, 1 and 4 bits
        op = AugmentOp('PosterizeIncreasing', prob=1, magnitude=level)
        assert np.asarray(op(image)).max() == brightest, level


def test_a_hugging_face_data_set_gives_the_samples_of_its_folder(root, tmp_path):
    pytest.importorskip('datasets')
    theirs = TimmDataset(str(tmp_path / 'cache'), 'train', TEST, name=f'hfds/{root}')
    ours = TimmDataset(str(root), 'train', TEST)
    assert theirs.metainfo == ours.metainfo and len(theirs) == len(ours) == 6
    for i in range(6):
        assert torch.equal(theirs[i]['inputs'], ours[i]['inputs']) and theirs[i]['label'] == ours[i]['label']
        assert Path(theirs[i]['img_path']).name == Path(ours[i]['img_path']).name


def test_the_data_set_is_built_by_its_name(root):
    assert isinstance(
        DATASETS.build(dict(type='TimmDataset', root=str(root), split='val', transform=TEST)), TimmDataset
    )
