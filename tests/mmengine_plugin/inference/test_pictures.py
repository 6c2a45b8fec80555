"""Pictures: one for each image, of the pixels that the config loads, whatever the names of files and classes."""

import json
import multiprocessing
import sys
from pathlib import Path

import matplotlib
import mmengine.runner.runner
import numpy as np
import pytest
import torch
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from PIL import Image

from mmengine_plugin.cli.configs import load_config
from mmengine_plugin.inference import fonts
from mmengine_plugin.inference.drawing import PicturesHook
from mmengine_plugin.inference.images import find_images, png_names
from mmengine_plugin.inference.overlays import with_legend
from tests.conftest import DETECTION, TIME_LIMIT
from tests.mmengine_plugin.inference.local_models import local_predictor

NAMES = ['photo 1.png', '#1.png', '100%.png', '[a].png', '-x.png', 'ü.png', '猫.png', '[b] .png', 'a{0}.png', '*.png']


class RemoveImages(Hook):
    """Removes the images of a batch after the model has had them."""

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: dict, outputs: list) -> None:
        for sample in outputs:
            Path(sample.img_path).unlink()


def show(folder: Path) -> None:
    """Draw the predictions for ``folder/a.json`` into ``folder/shown``, and then again without the images."""
    sys.stdout = sys.stderr = (folder / 'log').open('a', buffering=1)
    mmengine.runner.runner.collect_env = dict  # it asks compilers for their versions, which takes long
    torch.set_num_threads(1)
    cfg = load_config(str(DETECTION), {'visualizer.name': str(folder), 'work_dir': str(folder / 'work')})
    for loader in (cfg.test_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.update(data_root='', ann_file=str(folder / 'a.json'), data_prefix=dict(img=f'{folder}/'))
        loader.dataset.pipeline[0].color_type = 'color_ignore_orientation'
    cfg.test_evaluator.ann_file = str(folder / 'a.json')
    runner = Runner.from_cfg(cfg)
    runner.register_hook(PicturesHook(str(folder / 'shown')))
    runner.test()
    runner.register_hook(RemoveImages(), priority='VERY_HIGH')
    runner.test()


def test_the_pictures_of_test_py_are_one_for_each_image_as_the_config_loads_it(tmp_path):
    classes = ('stop sign', 'sports ball', 'kite', 'banana', 'pizza', 'donut')
    image = Image.new('RGB', (80, 40), 'red')
    image.paste('blue', (40, 0, 80, 40))
    exif = image.getexif()
    exif[0x112] = 6  # viewers turn it by a quarter
    names = ['a/1.png', 'b/1.png', 'b/1.jpg', 'b/ü #%[1].png']
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image.save(tmp_path / name, exif=exif)
    images = [dict(id=i, file_name=name, width=80, height=40) for i, name in enumerate(names)]
    square = dict(bbox=[5, 5, 9, 9], segmentation=[[5, 5, 14, 5, 14, 14, 5, 14]], area=81, iscrowd=0, category_id=1)
    annotations = [square | dict(id=i + 1, image_id=i) for i in range(len(names))]
    categories = [dict(id=i, name=name) for i, name in enumerate(classes, 1)]
    (tmp_path / 'a.json').write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    process = multiprocessing.get_context('fork').Process(target=show, args=(tmp_path,))
    process.start()
    process.join(TIME_LIMIT)
    said = (tmp_path / 'log').read_text()
    pictures = sorted(str(path.relative_to(tmp_path / 'shown')) for path in (tmp_path / 'shown').rglob('*.png'))
    assert pictures == sorted(f'{name}.png' for name in names), said[-3000:]
    for name in pictures:
        picture = Image.open(tmp_path / 'shown' / name).convert('RGB')
        assert picture.size == (160, 40)  # unturned; ground truth and prediction
        assert np.abs(np.subtract(picture.getpixel((35, 35)), (255, 0, 0))).max() < 9
        assert np.abs(np.subtract(picture.getpixel((75, 35)), (0, 0, 255))).max() < 9
    assert process.exitcode == 1
    assert f'{tmp_path}/a/1.png cannot be drawn: missing file: it is not there' in said


def test_any_name_of_a_file_is_found_and_predicted(tmp_path, monkeypatch):
    (tmp_path / 'in').mkdir()
    for name in NAMES:
        Image.new('RGB', (70, 70)).save(tmp_path / 'in' / name)
    predictor = local_predictor(tmp_path, 'seg')
    predictor(tmp_path / 'in', tmp_path / 'out', tile=64)
    assert sorted(path.name for path in (tmp_path / 'out/labels').iterdir()) == sorted(NAMES)
    monkeypatch.chdir(tmp_path / 'in')
    assert sorted(find_images(NAMES, tmp_path / 'out')) == sorted(NAMES)  # each name as it is, not as a pattern
    assert png_names(NAMES)['#1.png'] == '#1.png'


def test_class_names_are_drawn_in_a_font_that_has_their_letters(tmp_path):
    letters = set('кошка')
    font = fonts.font_for(['cat', 'кошка'], 12)
    assert {ord(letter) for letter in letters} <= FT2Font(font.path).get_charmap().keys()
    assert fonts.font_for(['cat'], 12).getname() != font.getname()  # ASCII has PIL's own
    used = list(matplotlib.rcParams['font.sans-serif'])
    try:
        fonts.use_font_for(['кошка'])
        (name,) = matplotlib.rcParams['font.sans-serif'][: -len(used)]
        assert name in {entry.name for entry in fontManager.ttflist}
    finally:
        matplotlib.rcParams['font.sans-serif'] = used


def test_letters_that_no_font_has_are_logged_once_and_drawn_as_boxes(tmp_path):
    MMLogger.get_instance('test_fonts', log_file=str(tmp_path / 'log'))
    unknown = '\U000f0000'  # for private use
    for _ in range(2):
        picture = with_legend(Image.new('RGB', (50, 50)), [((255, 0, 0), f'猫 {unknown}')])
        assert picture.width > 50
    said = (tmp_path / 'log').read_text()
    assert said.count('no installed font has all letters of the names') == 1 and 'fonts-noto-cjk' in said


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_pictures_of_classes_in_any_script_are_drawn(task, tmp_path):
    predictor = local_predictor(tmp_path, task)
    predictor.classes = ('красный', '青い')
    image = Image.new('RGB', (200, 100), (255, 0, 0))
    image.save(tmp_path / 'a.png')
    predictor(tmp_path / 'a.png', tmp_path / 'out')
    drawn = Image.open(tmp_path / 'out/pictures/a.png').convert('RGB')
    assert not np.array_equal(np.asarray(drawn)[:100, :200], image)
