"""Predictions for one's own images: those of test.py, whatever the image, and no failure in silence."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from rich.progress import Progress

from backbones import UserError
from mmengine_plugin.inference.images import find_images
from mmengine_plugin.predict import Predictor
from tests.conftest import DETECTION, FAST, ROOT, SEGMENTATION

# an untrained detector is sure of nothing
FEW = {'model.test_cfg.rcnn.score_thr': 0.0, 'model.test_cfg.rcnn.max_per_img': 3}


def save_checkpoint(config: Path, path: Path, **meta) -> Path:
    """A checkpoint that fits a config, untrained."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta=meta), path)
    return path


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Where the checkpoints lie."""
    return tmp_path_factory.mktemp('checkpoints')


@pytest.fixture(scope='module')
def detector(folder):
    return Predictor(DETECTION, save_checkpoint(DETECTION, folder / 'detector.pth'), 'cpu', FEW)


@pytest.fixture(scope='module')
def segmentor(folder):
    return Predictor(SEGMENTATION, save_checkpoint(SEGMENTATION, folder / 'segmentor.pth'), 'cpu')


@pytest.fixture
def photo(mini_data):
    """An image of the mini data."""
    return Image.open(sorted((mini_data / 'data/mini/coco/val2017').iterdir())[0])


def scored(tool, config, checkpoint, mini_data, out, *options) -> dict:
    """What test.py predicts, by the image's file name."""
    arguments = ['--work-dir', out, '--out', out / 'predictions.pkl', '--cfg-options', *FAST, *options]
    done = tool('test.py', config, checkpoint, *arguments, cwd=mini_data)
    assert done.returncode == 0, done.stdout[-3000:]
    return {Path(p['img_path']).name: p for p in pickle.loads((out / 'predictions.pkl').read_bytes())}


def test_detections_are_those_of_test_py(tool, detector, folder, mini_data, tmp_path):
    options = [f'{key}={value}' for key, value in FEW.items()]
    expected = scored(tool, DETECTION, folder / 'detector.pth', mini_data, tmp_path, *options)
    images = mini_data / 'data/mini/coco/val2017'
    results = detector(images, tmp_path / 'out', score_thr=0)
    assert len(results) == 3 * len(expected)
    for name, sample in expected.items():
        found = [r for r in results if r['file_name'] == str(images / name)]
        instances = sample['pred_instances']
        assert [r['score'] for r in found] == instances['scores'].tolist()
        assert [r['category_id'] - 1 for r in found] == instances['labels'].tolist()
        corners = [(x, y, x + w, y + h) for x, y, w, h in (r['bbox'] for r in found)]
        assert np.array(corners) == pytest.approx(instances['bboxes'].numpy(), abs=1e-9)  # sums in fp64
        assert [r['segmentation']['counts'].encode() for r in found] == [m['counts'] for m in instances['masks']]


def test_label_maps_are_those_of_test_py(tool, segmentor, folder, mini_data, tmp_path):
    expected = scored(tool, SEGMENTATION, folder / 'segmentor.pth', mini_data, tmp_path)
    results = segmentor(mini_data / 'data/mini/ade20k/images/validation', tmp_path / 'out')
    assert [Path(r['file_name']).name for r in results] == sorted(expected)
    for result in results:
        labels = np.asarray(Image.open(tmp_path / 'out' / result['label_map']))
        assert np.array_equal(labels, expected[Path(result['file_name']).name]['pred_sem_seg']['data'][0])
        shares = {segmentor.classes[i]: (labels == i).mean() for i in np.unique(labels)}
        assert len(shares) > 1 and result['shares'] == pytest.approx(shares, abs=1e-6)
    assert json.loads((tmp_path / 'out/predictions.json').read_text()) == dict(
        classes=list(segmentor.classes), images=results
    )


def test_images_that_share_a_forward_pass_have_the_results_of_their_own(detector, segmentor, photo, tmp_path):
    for i, image in enumerate([photo, photo.rotate(180), photo.resize((99, 300)), photo.rotate(180), photo]):
        image.save(tmp_path / f'{i}.png')
    paths = sorted(tmp_path.glob('*.png'))
    alone, together = (detector(paths, tmp_path / 'out', batch_size, 0) for batch_size in (1, 4))
    assert [r['image_id'] for r in together] == [i for i in range(1, 6) for _ in range(3)]
    assert [r['score'] for r in together] == pytest.approx([r['score'] for r in alone], abs=1e-6)
    assert np.array([r['bbox'] for r in together]) == pytest.approx(np.array([r['bbox'] for r in alone]), abs=1e-3)
    alone, together = (segmentor(paths, tmp_path / 'out', batch_size) for batch_size in (1, 4))
    for one, other in zip(alone, together, strict=True):
        assert one['file_name'] == other['file_name'] and one['shares'] == pytest.approx(other['shares'], abs=1e-3)


def test_detections_are_results_that_pycocotools_reads(detector, photo, tmp_path):
    photo.save(tmp_path / 'a.png')
    results = detector(tmp_path / 'a.png', tmp_path / 'out', score_thr=0)
    coco = COCO(tmp_path / 'out/images.json')
    read = coco.loadRes(str(tmp_path / 'out/predictions.json'))
    assert coco.imgs == {1: dict(id=1, file_name=str(tmp_path / 'a.png'), width=photo.width, height=photo.height)}
    assert [coco.cats[a['category_id']]['name'] for a in read.anns.values()] == [r['category_name'] for r in results]
    assert [read.annToMask(a).shape for a in read.anns.values()] == [(photo.height, photo.width)] * 3
    assert all(rle.area(r['segmentation']) > 0 for r in results)


def test_an_image_without_detections_is_drawn_and_listed(detector, photo, tmp_path):
    photo.save(tmp_path / 'a.png')
    assert detector(tmp_path / 'a.png', tmp_path / 'out', score_thr=1) == []
    assert len(json.loads((tmp_path / 'out/images.json').read_text())['images']) == 1
    assert np.array_equal(Image.open(tmp_path / 'out/pictures/a.png'), photo)


def save_kinds(photo: Image.Image, folder: Path) -> None:
    """An image in each way that one may be stored."""
    grey = np.asarray(photo.convert('L'))
    photo.save(folder / 'jpeg.JPG', 'JPEG')
    photo.convert('L').save(folder / 'grey.png')
    photo.convert('RGBA').save(folder / 'alpha.png')
    photo.convert('P').save(folder / 'palette.png')
    photo.convert('1').save(folder / 'bits.tif')
    photo.save(folder / 'lossless.webp', lossless=True)
    photo.save(folder / 'bitmap.bmp')
    Image.fromarray(grey.astype(np.uint16) << 8 | 9).save(folder / 'grey16.png')
    cv2.imwrite(str(folder / 'colour16.png'), np.asarray(photo).astype(np.uint16) << 8 | 9)
    exif = photo.getexif()
    exif[0x112] = 6  # the camera was turned by a quarter
    photo.save(folder / 'rotated.jpg', exif=exif)
    photo.convert('CMYK').save(folder / 'print.jpg')
    photo.resize((1, 1)).save(folder / 'dot.png')
    photo.resize((1999, 701)).save(folder / 'large.png')
    photo.resize((400, 1)).save(folder / 'line.png')
    photo.resize((1, 400)).save(folder / 'column.png')


def stripes(path: Path, orientation: int) -> Image.Image:
    """Save a picture with a red left and a blue right half, to be turned as EXIF says; return it as stored."""
    image = Image.new('RGB', (80, 40), 'red')
    image.paste('blue', (40, 0, 80, 40))
    exif = image.getexif()
    exif[0x112] = orientation
    image.save(path, exif=exif, quality=100, subsampling=0)
    return Image.open(path).convert('RGB')


@pytest.mark.usefixtures('detector')  # it writes the checkpoint
@pytest.mark.parametrize('color_type', ['color', 'color_ignore_orientation'])
def test_images_are_turned_by_exif_only_if_the_configs_loader_turns_them(color_type, folder, tmp_path):
    options = {'test_dataloader.dataset.pipeline.0.color_type': color_type}
    stored = stripes(tmp_path / 'a.jpg', orientation=6)
    predictor = Predictor(DETECTION, folder / 'detector.pth', 'cpu', options)
    predictor(tmp_path / 'a.jpg', tmp_path / 'out', score_thr=1)
    expected = stored if color_type == 'color_ignore_orientation' else stored.rotate(-90, expand=True)
    assert np.abs(np.subtract(Image.open(tmp_path / 'out/pictures/a.png'), expected, dtype=int)).max() <= 2
    (entry,) = json.loads((tmp_path / 'out/images.json').read_text())['images']
    assert (entry['width'], entry['height']) == expected.size
    model_input = next(predictor._inputs([str(tmp_path / 'a.jpg')], 1, None, [], Progress())).data['inputs']
    assert (model_input.shape[2] > model_input.shape[1]) == (color_type == 'color_ignore_orientation')


@pytest.mark.parametrize('task', ['detector', 'segmentor'])
def test_every_kind_of_image_has_a_picture_of_its_size_as_loaded(task, photo, request, tmp_path):
    (tmp_path / 'in').mkdir()
    save_kinds(photo, tmp_path / 'in')
    request.getfixturevalue(task)(str(tmp_path / 'in'), tmp_path / 'out', 4, 0)
    results = tmp_path / 'out' / ('pictures' if task == 'detector' else 'labels')
    assert len(list(results.iterdir())) == 15
    for path in (tmp_path / 'in').iterdir():
        size = photo.size[::-1] if path.name == 'rotated.jpg' else Image.open(path).size
        assert Image.open(results / f'{path.stem}.png').size == size


def test_images_of_one_name_do_not_overwrite_each_other(segmentor, photo, tmp_path):
    paths = [tmp_path / name for name in ('day/1/a.png', 'day/2/a.png', 'night/a.png')]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.resize((64, 64)).save(path)
    segmentor([tmp_path / 'day', tmp_path / 'night/*.png', paths[0]], tmp_path / 'out')
    written = {str(p.relative_to(tmp_path / 'out/labels')) for p in (tmp_path / 'out/labels').rglob('*.png')}
    assert written == {'day/1/a.png', 'day/2/a.png', 'night/a.png'}
    photo.resize((64, 64)).save(tmp_path / 'night/a.jpg')
    results = segmentor(tmp_path / 'night', tmp_path / 'out')
    assert [r['label_map'] for r in results] == ['labels/a.jpg.png', 'labels/a.png.png']


def test_what_cannot_be_read_is_listed_with_its_cause_and_the_others_are_done(tool, folder, detector, photo, tmp_path):
    (tmp_path / 'in').mkdir()
    photo.save(tmp_path / 'in/good.jpg')
    (tmp_path / 'in/cut.jpg').write_bytes((tmp_path / 'in/good.jpg').read_bytes()[:-2000])
    (tmp_path / 'in/text.jpg').write_text('no image')
    Image.new('F', (9, 9)).save(tmp_path / 'in/depth.tiff')
    photo.resize((3000, 2)).save(tmp_path / 'in/line.png')
    (tmp_path / 'in/notes.txt').write_text('none, and not looked at')
    done = tool('predict.py', DETECTION, folder / 'detector.pth', tmp_path / 'in', '--out-dir', tmp_path / 'out')
    assert done.returncode == 1 and 'Traceback' not in done.stdout, done.stdout[-3000:]
    message = done.stdout[done.stdout.index('error: ') :].splitlines()
    assert message[0].startswith('error: 4 of 5 images could not be predicted')
    unreadable = 'no image that training can read'
    causes = {'cut.jpg': 'truncated', 'depth.tiff': 'image of 32 bits', 'line.png': '3000 x 2', 'text.jpg': unreadable}
    for line, (name, cause) in zip(message[1:], causes.items(), strict=True):
        assert line.startswith(f'  {tmp_path}/in/{name}: ') and cause in line
    listed = json.loads((tmp_path / 'out/images.json').read_text())['images']
    assert [image['file_name'] for image in listed] == [str(tmp_path / 'in/good.jpg')]
    assert [p.name for p in (tmp_path / 'out/pictures').iterdir()] == ['good.png']


def test_a_folder_and_a_pattern_hold_images_of_any_capitals_and_nothing_else(tmp_path):
    for name in ('b.JPG', 'a.png', 'notes.txt', '.hidden.png', 'sub/c.TIFF', '[x]/d.webp'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([tmp_path, tmp_path / '[x]', f'{tmp_path}/*.JPG', tmp_path / 'notes.txt'], tmp_path / 'out')
    assert [str(Path(p).relative_to(tmp_path)) for p in found] == [
        '[x]/d.webp', 'a.png', 'b.JPG', 'sub/c.TIFF', 'notes.txt'
    ]  # fmt: skip


def test_images_and_folders_are_checked_before_the_model_loads(tool, tmp_path):
    (tmp_path / 'a.png').touch()
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'taken').touch()
    done = tool('predict.py', DETECTION, 'none.pth', tmp_path / 'a.png', 'none.jpg', '--out-dir', tmp_path / 'out')
    assert done.returncode == 1 and done.stdout == f'error: none.jpg does not exist (seen from {ROOT})\n'
    assert not (tmp_path / 'out').exists()
    for images, out_dir, words in (
        ('empty', 'out', 'holds no image'),
        ('*.jpg', 'out', 'does not exist'),
        ('a.png', 'taken', 'cannot write to'),
        ('a.png', 'taken/out', 'cannot write to'),
        ('a.png', '.', 'where the results go'),
    ):
        with pytest.raises(UserError, match=words):
            find_images(tmp_path / images, tmp_path / out_dir)


def test_classes_are_those_that_the_checkpoint_was_trained_on(photo, tmp_path):
    classes = tuple('abcdef')  # without a palette
    own = save_checkpoint(DETECTION, tmp_path / 'own.pth', dataset_meta=dict(classes=classes))
    photo.save(tmp_path / 'a.png')
    results = Predictor(DETECTION, own, 'cpu', FEW)(tmp_path / 'a.png', tmp_path / 'out', score_thr=0)
    assert {r['category_name'] for r in results} <= set(classes)
    two = save_checkpoint(DETECTION, tmp_path / 'two.pth', dataset_meta=dict(classes=classes[:2]))
    with pytest.raises(UserError, match=r'num_classes is 6, but .*two\.pth has 2 classes'):
        Predictor(DETECTION, two, 'cpu')


def test_what_does_not_fit_is_refused(folder, detector, segmentor, photo, tmp_path):
    with pytest.raises(UserError, match=r'detector\.pth do not fit the model: missing decode_head'):
        Predictor(SEGMENTATION, folder / 'detector.pth', 'cpu')
    with pytest.raises(UserError, match='device cuda:99 cannot be used'):
        Predictor(SEGMENTATION, folder / 'segmentor.pth', 'cuda:99')
    with pytest.raises(UserError, match='no image is named'):
        segmentor([], tmp_path / 'out')
    with pytest.raises(UserError, match='batch size 0'):
        segmentor(tmp_path, tmp_path / 'out', batch_size=0)
    with pytest.raises(UserError, match='score threshold 50'):
        detector(tmp_path, tmp_path / 'out', score_thr=50)


def test_detection_never_imports_mmseg(folder, detector):
    program = f'import sys; from mmengine_plugin.predict import Predictor; Predictor({str(DETECTION)!r}, sys.argv[1])'
    command = [sys.executable, '-c', program + '; sys.exit("mmseg" in sys.modules)', folder / 'detector.pth']
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


def test_the_inferencers_of_mmdet_and_mmseg_predict_the_same(folder, detector, segmentor, photo, tmp_path):
    # not at the top: they look for operators when they are imported, and our plugins bring these along
    from mmdet.apis import DetInferencer
    from mmseg.apis import MMSegInferencer

    photo.save(tmp_path / 'a.png')
    inferencer = DetInferencer(str(DETECTION), str(folder / 'detector.pth'), device='cpu')
    boxes = inferencer(str(tmp_path / 'a.png'))['predictions'][0]
    results = detector(tmp_path / 'a.png', tmp_path / 'out', score_thr=0)
    assert [r['score'] for r in results] == boxes['scores'][:3]
    inferencer = MMSegInferencer(str(SEGMENTATION), str(folder / 'segmentor.pth'), device='cpu')
    labels = inferencer(str(tmp_path / 'a.png'))['predictions']
    segmentor(tmp_path / 'a.png', tmp_path / 'out')
    assert np.array_equal(labels, Image.open(tmp_path / 'out/labels/a.png'))
