"""Images of other than three channels: training, prediction and pictures, and settings that do not fit."""

import json
import multiprocessing
import re
import sys
import textwrap
from argparse import Namespace
from pathlib import Path

import cv2
import mmengine.runner.runner
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from PIL import Image

from backbones import UserError
from mmengine_plugin.checks import image_channels
from mmengine_plugin.checks.check_run_hook import check_channels
from mmengine_plugin.checks.image_channels import check_image_channels
from mmengine_plugin.cli.configs import load_config
from mmengine_plugin.inference.drawing import PicturesHook
from mmengine_plugin.inference.images import rgb_picture
from mmengine_plugin.predict import Predictor
from tests.conftest import DETECTION, ROOT, SEGMENTATION, TIME_LIMIT

(EXAMPLE,) = (
    t for t in re.findall('```python\n(.*?)```', (ROOT / 'docs/data.md').read_text(), re.S) if '# bands.py' in t
)
SEGMENTOR = """
    _base_ = __import__('mmseg_plugin').config('mini/upernet_mambaout_mini')
    model = dict(backbone=dict(in_channels=4), data_preprocessor=dict(mean=[99.0] * 4, std=[50.0] * 4))
    load, labels = dict(type='LoadImageFromFile', color_type='unchanged'), dict(type='LoadAnnotations')
    train_dataloader = dict(dataset=dict(pipeline=[load, labels, dict(type='PackSegInputs')]))
    val_dataloader = dict(dataset=dict(pipeline=[load, labels, dict(type='PackSegInputs')]))
    test_dataloader = val_dataloader
"""


def write_data(folder: Path, channels: int) -> None:
    """Two images of 128 x 96 pixels with labels for both tasks; an object is seen in the last channel only."""
    rng = np.random.default_rng(0)
    images, objects = [], []
    for part in ('images', 'masks'):
        (folder / part).mkdir()
    for i in range(2):
        pixels, mask = rng.integers(0, 99, (96, 128, channels), np.uint8), np.zeros((96, 128), np.uint8)
        mask[20:60, 30 + i : 80 + i] = 1
        pixels[mask > 0, -1] = 250
        cv2.imwrite(str(folder / f'images/{i}.png'), pixels)
        cv2.imwrite(str(folder / f'masks/{i}.png'), mask)
        images.append(dict(id=i, file_name=f'{i}.png', width=128, height=96))
        polygon = [30 + i, 20, 80 + i, 20, 80 + i, 60, 30 + i, 60]
        objects.append(dict(id=i + 1, image_id=i, category_id=1, bbox=[30 + i, 20, 50, 40], area=2000, iscrowd=0))
        objects[-1]['segmentation'] = [polygon]
    content = dict(images=images, annotations=objects, categories=[dict(id=1, name='thing')])
    (folder / 'a.json').write_text(json.dumps(content))


def write_config(folder: Path, task: str, channels: int) -> Path:
    """The example of docs/data.md, or one for segmentation, for a small model, two steps and ``folder``'s data."""
    text = EXAMPLE.replace("'mask_rcnn_mambaout_tiny'", "'mini/mask_rcnn_mambaout_mini'").replace(
        '(1333, 800)', '(128, 96)'
    )
    text = textwrap.dedent(SEGMENTOR) if task == 'seg' else text
    if channels == 1:
        text = text.replace('in_channels=4', 'in_channels=1').replace("'unchanged'", "'grayscale'")
        text = re.sub(r'(mean|std)=\[.*?\]( \* 4)?', r'\1=[90.0]', text).replace('MultiChannelDet', 'Det')
    if task == 'det':
        text += f"""
data = dict(data_root={str(folder) + '/'!r}, ann_file='a.json', data_prefix=dict(img='images/'))
data['metainfo'] = dict(classes=('thing',))
model['roi_head'] = dict(bbox_head=dict(num_classes=1), mask_head=dict(num_classes=1))
model['test_cfg'] = dict(rcnn=dict(score_thr=0.0, max_per_img=3))
val_evaluator = test_evaluator = dict(ann_file={str(folder / 'a.json')!r})
train_cfg = dict(max_epochs=2, val_interval=2)
"""
    else:
        text += f"""
data = dict(_delete_=True, type='FolderDataset', data_root={str(folder)!r}, metainfo=dict(classes=('ground', 'thing')),
    data_prefix=dict(img_path='images', seg_map_path='masks'), img_suffix='.png')
model['decode_head'] = model['auxiliary_head'] = dict(num_classes=2)
train_cfg = dict(max_iters=2, val_interval=2)
param_scheduler = []
"""
    text += """
for loader in (train_dataloader, val_dataloader):
    loader |= dict(num_workers=0, persistent_workers=False)
    loader['dataset'] |= data
train_dataloader['batch_size'] = 2
test_dataloader = val_dataloader
"""
    path = folder / f'{task}.py'
    path.write_text(text)
    return path


def train_test_and_predict(config: Path, folder: Path) -> None:
    """Train for two steps, and test and predict with pictures."""
    sys.stdout = sys.stderr = (folder / 'log').open('a', buffering=1)
    mmengine.runner.runner.collect_env = dict  # it asks compilers for their versions, which takes long
    torch.set_num_threads(1)
    cfg = load_config(str(config), {'visualizer.name': str(config), 'work_dir': str(folder / 'work')})
    runner = Runner.from_cfg(cfg)
    runner.register_hook(PicturesHook(str(folder / 'shown')))
    runner.train()
    runner.test()
    torch.save(dict(state_dict=runner.model.state_dict(), meta={}), folder / 'a.pth')
    Predictor(config, folder / 'a.pth', 'cpu')(folder / 'images', folder / 'out', score_thr=0)


@pytest.mark.parametrize(
    ('task', 'channels'),
    [('det', 4), ('seg', 1), *(pytest.param(*case, marks=pytest.mark.full_size) for case in (('det', 1), ('seg', 4)))],
)
def test_models_train_test_and_predict_on_images_of_other_numbers_of_channels(task, channels, tmp_path):
    write_data(tmp_path, channels)
    config = write_config(tmp_path, task, channels)
    process = multiprocessing.get_context('fork').Process(target=train_test_and_predict, args=(config, tmp_path))
    process.start()
    process.join(TIME_LIMIT)
    assert process.exitcode == 0, (tmp_path / 'log').read_text()[-3000:]
    for folder in ('shown', 'out/pictures'):
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == [f'{i}.png' for i in range(2)]
    assert Image.open(tmp_path / 'shown/0.png').size == (256, 96)  # ground truth and prediction
    weight = next(v for k, v in torch.load(tmp_path / 'a.pth')['state_dict'].items() if k.startswith('backbone.stem'))
    assert weight.shape[1] == channels


def test_the_example_of_the_page_builds_a_model_of_four_channels(tmp_path):
    (tmp_path / 'bands.py').write_text(EXAMPLE)
    cfg = load_config(str(tmp_path / 'bands.py'), {})
    init_default_scope('mmdet')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert model.backbone.stem.conv1.in_channels == 4
    assert model.data_preprocessor.mean.flatten().shape == (4,)


def test_each_channel_is_normalised_by_its_own_values():
    import mmdet_plugin  # noqa: F401

    init_default_scope('mmdet')
    settings = dict(type='MultiChannelDetDataPreprocessor', mean=[1.0, 2, 3, 4, 5], std=[2.0, 2, 2, 2, 5])
    data = dict(inputs=[torch.full((5, 4, 4), 10, dtype=torch.uint8)])
    inputs = MODELS.build(settings)(data)['inputs']
    assert inputs[0, :, 0, 0].tolist() == [4.5, 4, 3.5, 3, 1]


@pytest.mark.parametrize(
    ('config', 'options', 'message'),
    [
        (DETECTION, {'model.backbone.in_channels': 4}, r'in_channels is for images of 4 channels, but model\.data_pre'),
        (SEGMENTATION, {'model.backbone.in_channels': 1}, r"of 1 channel, but .*color_type='grayscale' in every"),
        (
            DETECTION,
            {'train_dataloader.dataset.pipeline.0.color_type': 'grayscale'},
            r"color_type='grayscale' in train_dataloader is for images of 1 channel, but model\.backbone\.in_channels",
        ),
        (SEGMENTATION, {'model.data_preprocessor.mean': [1.0, 2, 3, 4]}, r'mean is for images of 4 channels, but'),
    ],
)
def test_settings_that_disagree_are_refused_with_settings_to_paste(config, options, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        load_config(str(config), options)
    settings = re.search(r'set model = (dict\(.*\)) and color_type=(\S+) in every', str(caught.value))
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(dict(model=eval(settings[1])))  # pasting them, and leaving out PhotoMetricDistortion, mends it
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.pipeline[0].color_type = eval(settings[2])
        loader.dataset.pipeline = [step for step in loader.dataset.pipeline if 'PhotoMetric' not in step.type]
    cfg.dump(tmp_path / 'pasted.py')
    load_config(str(tmp_path / 'pasted.py'), {})


def test_an_image_of_another_number_of_channels_is_refused_before_the_first_step_and_by_predict(tmp_path):
    write_data(tmp_path, 3)
    config = write_config(tmp_path, 'det', 4)
    process = multiprocessing.get_context('fork').Process(target=train_test_and_predict, args=(config, tmp_path))
    process.start()
    process.join(TIME_LIMIT)
    message = '0.png: it has 3 channels as LoadImageFromFile loads it, but model.backbone.in_channels is 4'
    assert process.exitcode == 1 and message in (tmp_path / 'log').read_text()
    cfg = load_config(str(config), {})
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta={}), tmp_path / 'a.pth')
    cv2.imwrite(str(tmp_path / 'images/b.png'), np.zeros((96, 128, 4), np.uint8))
    predictor = Predictor(config, tmp_path / 'a.pth', 'cpu')
    with pytest.raises(UserError, match='2 of 3 images could not be predicted') as caught:
        predictor(tmp_path / 'images', tmp_path / 'out')
    assert message in str(caught.value) and (tmp_path / 'out/pictures/b.png').is_file()


class TwoStreams(torch.nn.Module):
    """A backbone for colours and depth in one array."""

    def __init__(self) -> None:
        super().__init__()
        self.color, self.depth = torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(1, 8, 3)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.color(x[:, :3]) + self.depth(x[:, 3:])]


def test_a_backbone_that_splits_the_channels_of_its_images_is_accepted():
    init_default_scope('mmdet')
    model = torch.nn.Module()
    model.backbone, model.data_preprocessor = TwoStreams(), MODELS.build(dict(type='DetDataPreprocessor'))
    check_image_channels(model, np.zeros((8, 8, 4), np.uint8))
    with pytest.raises(UserError, match='it has 5 channels'):
        check_image_channels(model, np.zeros((8, 8, 5), np.uint8))
    model.data_preprocessor = torch.nn.Identity()  # one that may add channels
    check_image_channels(model, np.zeros((8, 8, 5), np.uint8))


def test_only_images_of_channels_height_and_width_are_compared_with_the_backbone():
    init_default_scope('mmdet')
    model = torch.nn.Module()
    model.backbone, model.data_preprocessor = torch.nn.Conv2d(3, 8, 3), MODELS.build(dict(type='DetDataPreprocessor'))
    for inputs in (torch.zeros(2, 8, 8, 8), dict(image=torch.zeros(2, 8, 8))):
        check_channels(Namespace(model=model, sample=dict(inputs=inputs, data_samples=BaseDataElement())))
    with pytest.raises(UserError, match='the first image: it has 2 channels'):
        check_channels(Namespace(model=model, sample=dict(inputs=torch.zeros(2, 8, 8), data_samples=BaseDataElement())))


def test_a_picture_shows_the_first_three_channels_or_grey():
    loader, pixels = LoadImageFromFile(), np.zeros((2, 3, 5), np.uint8)
    pixels[..., :] = (10, 20, 30, 40, 50)
    assert rgb_picture(pixels, loader).getpixel((0, 0)) == (30, 20, 10)  # OpenCV loads BGR
    assert rgb_picture(pixels[..., :1], loader).getpixel((0, 0)) == (10, 10, 10)
    assert rgb_picture(pixels[..., 1], loader).getpixel((0, 0)) == (20, 20, 20)
    assert rgb_picture(pixels[..., :2], loader).getpixel((0, 0)) == (10, 10, 10)
    tiff = LoadImageFromFile(imdecode_backend='tifffile')
    assert rgb_picture(pixels, tiff).getpixel((0, 0)) == (10, 20, 30)
    deep = np.array([[100, 1100, 2100]], np.uint16)  # as bright as it may be, whatever the number of bits in use
    assert [rgb_picture(deep, loader).getpixel((x, 0))[0] for x in range(3)] == [0, 127, 255]
    assert rgb_picture(np.zeros((50, 100, 4), np.uint8), loader, longest=20).size == (20, 10)


def test_a_transform_of_ones_own_may_add_channels(tmp_path):
    write_data(tmp_path, 3)
    cfg = Config.fromfile(write_config(tmp_path, 'det', 4))
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.pipeline[0] = dict(type='LoadImageFromFile')
    with pytest.raises(UserError, match='in_channels'):
        image_channels.check_channels(cfg)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.pipeline.insert(1, dict(type='LoadDepth'))
    image_channels.check_channels(cfg)
