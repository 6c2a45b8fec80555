"""Classified images: the scores of test.py, under names that people read, and no failure in silence."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, FUNCTIONS, MODELS
from PIL import Image, ImageOps

from backbones import UserError
from mmengine_plugin.inference import tiles
from mmengine_plugin.inference.classification import class_names
from mmengine_plugin.inference.overlays import with_legend
from mmengine_plugin.predict import Predictor
from tests.conftest import ROOT

MINI = ROOT / 'configs/mini/imagenet_mambaout_mini.py'
CLASSES = tuple('abcdefg')


def noise(seed: int, height: int = 60, width: int = 90) -> Image.Image:
    """An image of coarse random colours."""
    cells = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BILINEAR)


def save_kinds(folder: Path) -> None:
    """Images of each class, stored in the ways that PIL and OpenCV load differently, and of several sizes."""
    for i, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        noise(i).save(folder / name / 'plain.png')
    exif = noise(0).getexif()
    exif[0x112] = 6  # viewers turn it by a quarter
    noise(10).save(folder / 'a/turned.jpg', exif=exif)
    noise(11).convert('CMYK').save(folder / 'b/print.jpg')
    noise(12).convert('P').save(folder / 'c/palette.png')
    noise(13).convert('L').save(folder / 'd/grey.png')
    see_through = noise(14).convert('RGBA')
    see_through.putalpha(99)
    see_through.save(folder / 'e/alpha.png')
    noise(15, 301, 37).save(folder / 'f/column.png')
    noise(16, 1, 1).save(folder / 'g/dot.png')


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """Images in ``val/``, a tiny config of theirs, and a checkpoint that was trained on their classes."""
    folder = tmp_path_factory.mktemp('classifier')
    save_kinds(folder / 'val')
    write_config(folder / 'tiny.py', len(CLASSES), folder)
    write_checkpoint(folder / 'tiny.py', folder / 'tiny.pth', dict(dataset_meta=dict(classes=CLASSES)))
    return folder


def write_config(path: Path, num_classes: int, root: Path | None, **transform: object) -> Path:
    """A classifier that runs at once, for images below ``root``."""
    path.write_text(
        f'_base_ = {str(MINI)!r}\n'
        'arch = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))\n'
        f'model = dict(num_classes={num_classes}, backbone=dict(arch=arch))\n'
        f'data = dict(root={root and str(root)!r}, transform=dict({transform or dict(input_size=64)}))\n'
        'test_dataloader = dict(dataset=data)\n'
    )
    return path


def write_checkpoint(config: Path, path: Path, meta: dict) -> Path:
    """An untrained model whose scores depend much on the image."""
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(config).model)
    with torch.no_grad():
        for parameter in model.head.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


@pytest.fixture(scope='module')
def predictor(folder) -> Predictor:
    return Predictor(folder / 'tiny.py', folder / 'tiny.pth', 'cpu')


def top_of(scores: torch.Tensor) -> list[tuple[int, float]]:
    """The five highest scores and their classes, found by sorting."""
    pairs = sorted(enumerate(scores.tolist()), key=lambda pair: -pair[1])
    return pairs[:5]


def tops(results: list[dict]) -> list[list[tuple[int, float]]]:
    return [[(one['label'], one['score']) for one in result['top']] for result in results]


def test_scores_are_those_of_the_test_data_to_the_last_bit(folder, predictor, tmp_path):
    dataset = DATASETS.build(Config.fromfile(folder / 'tiny.py').test_dataloader.dataset)
    batch = FUNCTIONS.get('collate_images')([dataset[i] for i in range(len(dataset))])
    with torch.no_grad():
        samples = predictor.model.test_step(batch)
    results = predictor([sample.img_path for sample in samples], tmp_path / 'out', batch_size=len(dataset))
    assert len(results) == 14 and [r['file_name'] for r in results] == [sample.img_path for sample in samples]
    assert tops(results) == [top_of(sample.pred_scores) for sample in samples]
    assert len({score for top in tops(results) for _, score in top}) > 60  # each image has scores of its own


def test_exif_does_not_turn_an_image(folder, predictor, tmp_path):
    stored = Image.open(folder / 'val/a/turned.jpg')
    stored.convert('RGB').save(tmp_path / 'stored.png')  # without EXIF
    ImageOps.exif_transpose(stored).save(tmp_path / 'turned.png')
    paths = [folder / 'val/a/turned.jpg', tmp_path / 'stored.png', tmp_path / 'turned.png']
    given, as_stored, as_turned = tops(predictor(paths, tmp_path / 'out'))
    assert given == as_stored and given != as_turned


def test_images_of_all_sizes_share_batches_and_have_the_results_of_their_own(folder, predictor, tmp_path, monkeypatch):
    sizes, step = [], predictor.model.test_step
    monkeypatch.setattr(predictor.model, 'test_step', lambda data: sizes.append(len(data['inputs'])) or step(data))
    alone = predictor(folder / 'val', tmp_path / 'out')
    together = predictor(folder / 'val', tmp_path / 'out', batch_size=4)
    assert sizes == [1] * 14 + [4, 4, 4, 2]
    for one, other in zip(alone, together, strict=True):
        assert one['file_name'] == other['file_name']
        scores, others = ({t['label']: t['score'] for t in result['top']} for result in (one, other))
        assert scores == pytest.approx(others, abs=1e-5)


def test_the_file_lists_the_five_best_classes_or_all_if_there_are_fewer(folder, predictor, tmp_path):
    results = predictor(folder / 'val', tmp_path / 'out', score_thr=1)  # a threshold for detections alone
    written = json.loads((tmp_path / 'out/predictions.json').read_text())
    assert written == dict(classes=list(CLASSES), images=results)
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['pictures', 'predictions.json']
    for result in results:
        scores = [one['score'] for one in result['top']]
        assert len(scores) == 5 and scores == sorted(scores, reverse=True) and scores[0] < 1
        assert all(one['name'] == CLASSES[one['label']] for one in result['top'])
    config = write_config(tmp_path / 'three.py', 3, None)
    three = write_checkpoint(config, tmp_path / 'three.pth', dict(dataset_meta=dict(classes=CLASSES[:3])))
    (result,) = Predictor(config, three, 'cpu')(folder / 'val/a/plain.png', tmp_path / 'out')
    assert {one['name'] for one in result['top']} == set('abc')
    assert sum(one['score'] for one in result['top']) == pytest.approx(1)


def test_a_large_image_is_classified_whole_and_tiles_are_refused(folder, predictor, tmp_path, monkeypatch):
    noise(1, 1500, 2000).save(tmp_path / 'large.png')
    expected = predictor(tmp_path / 'large.png', tmp_path / 'out')
    assert predictor(tmp_path / 'large.png', tmp_path / 'out', tile=0) == expected
    monkeypatch.setattr(tiles, 'LARGE', 1000)
    assert len(tiles.tiles_of(1500, 2000, None)) == 6  # a detector's
    passes, step = [], predictor.model.test_step
    monkeypatch.setattr(predictor.model, 'test_step', lambda data: passes.append(data) or step(data))
    assert predictor(tmp_path / 'large.png', tmp_path / 'out') == expected and len(passes) == 1
    with pytest.raises(UserError, match='tile 128: a classifier has one answer for the whole image'):
        predictor(tmp_path / 'large.png', tmp_path / 'out', tile=128)


def test_a_picture_is_the_image_beside_the_names_and_scores(folder, predictor, tmp_path):
    results = predictor(folder / 'val/a', tmp_path / 'out')
    assert [Path(result['file_name']).name for result in results] == ['plain.png', 'turned.jpg']
    for result in results:
        image = Image.open(result['file_name']).convert('RGB')
        picture = Image.open(tmp_path / f'out/pictures/{Path(result["file_name"]).stem}.png')
        assert np.array_equal(np.asarray(picture)[: image.height, : image.width], image)
        rows = [(predictor.palette[one['label']], f'{one["name"]} {one["score"]:.1%}') for one in result['top']]
        assert np.array_equal(picture, with_legend(image, rows))
        assert not np.array_equal(picture, with_legend(image, rows[::-1]))


def test_a_name_that_is_longer_than_a_legend_has_room_for_is_cut_in_the_picture_alone(folder, tmp_path):
    long = tuple(f'{letter}{" word" * 40}' for letter in CLASSES)
    checkpoint = write_checkpoint(folder / 'tiny.py', tmp_path / 'long.pth', dict(dataset_meta=dict(classes=long)))
    (result,) = Predictor(folder / 'tiny.py', checkpoint, 'cpu')(folder / 'val/a/plain.png', tmp_path / 'out')
    assert {one['name'] for one in result['top']} <= set(long)
    assert 300 < Image.open(tmp_path / 'out/pictures/plain.png').width < 700


def test_what_cannot_be_read_is_listed_with_its_cause_and_the_others_are_done(tool, folder, tmp_path):
    (tmp_path / 'in').mkdir()
    noise(1, 200, 200).save(tmp_path / 'in/good.jpg', quality=95)
    (tmp_path / 'in/cut.jpg').write_bytes((tmp_path / 'in/good.jpg').read_bytes()[:-1000])
    (tmp_path / 'in/empty.png').touch()
    (tmp_path / 'in/text.jpg').write_text('no image')
    noise(1, 2, 3000).save(tmp_path / 'in/line.png')
    config = write_config(tmp_path / 'border.py', 7, None, input_size=64, crop_mode='border', crop_pct=1.0)
    done = tool('predict.py', config, folder / 'tiny.pth', tmp_path / 'in', '--out-dir', tmp_path / 'out')
    assert done.returncode == 1 and 'Traceback' not in done.stdout, done.stdout[-3000:]
    message = done.stdout[done.stdout.index('error: ') :].splitlines()
    assert message[0].startswith('error: 4 of 5 images could not be predicted')
    causes = {'cut.jpg': 'truncated', 'empty.png': 'no image', 'line.png': '3000 x 2 pixels cannot be resized'}
    for line, (name, cause) in zip(message[1:], (causes | {'text.jpg': 'no image in it'}).items(), strict=True):
        assert line.startswith(f'  {tmp_path}/in/{name}: ') and cause in line
    (listed,) = json.loads((tmp_path / 'out/predictions.json').read_text())['images']
    assert listed['file_name'] == str(tmp_path / 'in/good.jpg') and len(listed['top']) == 5
    assert [p.name for p in (tmp_path / 'out/pictures').iterdir()] == ['good.png']


def test_an_image_that_pil_refuses_for_its_size_is_listed_with_what_to_do(predictor, tmp_path, monkeypatch):
    noise(1).save(tmp_path / 'a.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 5000)  # of 60 x 90 = 5400
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(tmp_path / 'a.png')
    with warnings.catch_warnings():
        warnings.simplefilter('error', Image.DecompressionBombWarning)
        assert len(predictor(tmp_path / 'a.png', tmp_path / 'out')) == 1
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 2500)
    with pytest.raises(UserError, match=r'a\.png: it has more than the 5000 pixels that PIL reads: scale it down'):
        predictor(tmp_path / 'a.png', tmp_path / 'out')


def test_names_are_the_checkpoints_else_imagenets_else_the_folders(folder):
    data = Config.fromfile(folder / 'tiny.py').test_dataloader.dataset
    assert class_names(7, dict(classes=tuple('hijklmn')), data, 'a.pth') == list('hijklmn')
    for trained in (None, {}, dict(classes=())):
        assert class_names(7, trained, data, 'a.pth') == list(CLASSES)
    imagenet = class_names(1000, None, data, 'a.pth')
    assert imagenet[0] == 'tench, Tinca tinca' and imagenet[-1].startswith('toilet tissue') and len(imagenet) == 1000
    own = tuple(f'own {i}' for i in range(1000))
    assert class_names(1000, dict(classes=own), data, 'a.pth') == list(own)


def test_synsets_are_shown_in_words_and_other_names_as_they_are():
    trained = dict(classes=('n01440764', 'kite', 'n00000000', 'n02084071'))  # the last is not among the 1000 classes
    names = class_names(4, trained, {}, 'a.pth')
    assert names[:3] == ['tench, Tinca tinca', 'kite', 'n00000000'] and names[3].startswith('dog')


def test_classes_without_names_or_of_another_number_are_refused_with_what_to_do(folder, tmp_path):
    data = Config.fromfile(folder / 'tiny.py').test_dataloader.dataset
    for root in (None, str(tmp_path / 'none')):
        message = rf'a\.pth does not name its 7 classes, .*: set test_dataloader\.dataset\.root={root} to a folder'
        with pytest.raises(UserError, match=message):
            class_names(7, None, data | dict(root=root, name='hfds/some/set'), 'a.pth')
    with pytest.raises(UserError, match=r'num_classes is 6, but test_dataloader\.dataset has 7 classes \(a, b, c'):
        class_names(6, None, data, 'a.pth')
    with pytest.raises(UserError, match=r'num_classes is 1000, but a\.pth has 2 classes \(x, y\)'):
        class_names(1000, dict(classes=('x', 'y')), data, 'a.pth')


def test_published_weights_have_imagenets_names_and_timms_scores(folder, tmp_path):
    torch.manual_seed(0)
    published = timm.create_model('mambaout_femto').eval()
    torch.save(published.state_dict(), tmp_path / 'femto.pth')
    predictor = Predictor(ROOT / 'configs/imagenet_mambaout_femto.py', tmp_path / 'femto.pth', 'cpu')
    (result,) = predictor(folder / 'val/a/plain.png', tmp_path / 'out')
    transform = timm.data.create_transform(224, crop_pct=1.0, interpolation='bicubic')
    with torch.no_grad():
        scores = published(transform(noise(0))[None])[0].softmax(-1)
    names = timm.data.ImageNetInfo().label_descriptions()
    assert [one['name'] for one in result['top']] == [names[label] for label, _ in top_of(scores)]
    assert [one['score'] for one in result['top']] == pytest.approx([s for _, s in top_of(scores)], rel=1e-3)
    with pytest.raises(UserError, match=r'femto\.pth do not fit the model'):
        Predictor(ROOT / 'configs/imagenet_mambaout_kobe.py', tmp_path / 'femto.pth', 'cpu')


def test_a_classifier_imports_neither_mmdet_nor_mmseg_and_the_predictor_alone_no_timm_plugin(folder):
    program = (
        'import sys; sys.modules |= dict(mmdet=None, mmseg=None)\n'
        'from mmengine_plugin.predict import Predictor\n'
        'assert "timm_plugin" not in sys.modules\n'
        f'Predictor({str(folder / "tiny.py")!r}, {str(folder / "tiny.pth")!r}, "cpu")\n'
        'assert "timm_plugin" in sys.modules'
    )
    subprocess.run([sys.executable, '-c', program], cwd=ROOT, check=True, capture_output=True)
