"""Large images are predicted in tiles, with the results of the whole image and in bounded memory."""

import json
import multiprocessing
import resource
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from backbones import UserError
from mmengine_plugin.inference.run_lengths import runs_of, sampled, to_coco, union
from mmengine_plugin.inference.tiles import tiles_of
from tests.conftest import TIME_LIMIT
from tests.mmengine_plugin.inference.local_models import local_predictor

SIZE = (700, 600)


def objects(path: Path) -> Path:
    """Objects that seams of tiles of 256 pixels cut at many places, and some that they do not."""
    image = Image.new('RGB', SIZE, (90, 90, 90))
    draw = ImageDraw.Draw(image)
    draw.rectangle((5, 10, 690, 30), fill=(255, 0, 0))  # longer than any tile
    draw.ellipse((180, 60, 300, 160), fill=(255, 0, 0))
    draw.line((20, 580, 380, 260), fill=(0, 0, 255), width=12)  # through the corners of several tiles
    for x in range(15, 690, 31):
        draw.rectangle((x, 200, x + 17, 214), fill=(0, 0, 255) if x % 2 else (255, 0, 0))
    draw.rectangle((400, 240, 680, 560), fill=(255, 0, 0))  # larger than a tile
    draw.rectangle((450, 300, 470, 560), fill=(0, 0, 255))
    image.save(path)
    return path


def found(results: list[dict]) -> set[tuple]:
    """What was detected, without the order."""
    return {(r['category_name'], tuple(r['bbox']), r['segmentation']['counts']) for r in results}


@pytest.mark.parametrize('batch_size', [1, 3])
def test_objects_across_seams_are_detected_once_and_whole(batch_size, tmp_path):
    path = objects(tmp_path / 'a.png')
    predictor = local_predictor(tmp_path, 'det')
    whole = predictor(path, tmp_path / 'whole', tile=0)
    tiled = predictor(path, tmp_path / 'tiled', batch_size, tile=256)
    assert len(whole) > 20 and len(tiled) == len(whole) and found(tiled) == found(whole)
    entry = max(whole, key=lambda r: r['bbox'][2])
    assert entry['bbox'] == [5, 10, 686, 21] and coco_mask.area(entry['segmentation']) == 686 * 21
    assert json.loads((tmp_path / 'tiled/images.json').read_text())['images'][0]['width'] == 700


def test_objects_of_other_classes_and_neighbours_are_not_merged(tmp_path):
    image = Image.new('RGB', (500, 256), (90, 90, 90))
    draw = ImageDraw.Draw(image)
    draw.rectangle((100, 50, 249, 100), fill=(255, 0, 0))
    draw.rectangle((250, 50, 400, 100), fill=(0, 0, 255))  # the same rows, and it goes on where the first ends
    draw.rectangle((100, 150, 246, 200), fill=(255, 0, 0))
    draw.rectangle((252, 150, 400, 200), fill=(255, 0, 0))  # a neighbour behind a gap
    image.save(tmp_path / 'a.png')
    boxes = [r['bbox'] for r in local_predictor(tmp_path, 'det')(tmp_path / 'a.png', tmp_path / 'out', tile=256)]
    assert sorted(boxes) == [[100, 50, 150, 51], [100, 150, 147, 51], [250, 50, 151, 51], [252, 150, 149, 51]]


def test_label_maps_of_tiles_are_those_of_the_whole_image(tmp_path):
    rng = np.random.default_rng(0)
    noise = cv2.resize(rng.integers(0, 256, (40, 60, 3), np.uint8), SIZE, interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(tmp_path / 'a.png'), noise)
    predictor = local_predictor(tmp_path, 'seg')
    (whole,) = predictor(tmp_path / 'a.png', tmp_path / 'whole', tile=0)
    (tiled,) = predictor(tmp_path / 'a.png', tmp_path / 'tiled', 2, tile=128)
    maps = [np.asarray(Image.open(tmp_path / name / 'labels/a.png')) for name in ('whole', 'tiled')]
    assert np.array_equal(*maps) and 0.2 < maps[0].mean() < 0.8
    assert tiled['shares'] == whole['shares']
    # the border of an image changes the labels, and so does that of a tile
    cv2.imwrite(str(tmp_path / 'part.png'), noise[:128, :128])
    predictor(tmp_path / 'part.png', tmp_path / 'part', tile=0)
    assert not np.array_equal(Image.open(tmp_path / 'part/labels/part.png'), maps[0][:128, :128])


@pytest.mark.parametrize(
    ('height', 'width', 'side'), [(600, 700, 256), (129, 1000, 128), (128, 128, 128), (50, 60, 64)]
)
def test_each_pixel_belongs_to_the_tile_whose_borders_are_farthest(height, width, side):
    tiles = tiles_of(height, width, side)
    depths, owned = [], np.zeros((height, width), int)
    for tile in tiles:
        left, top, right, bottom = tile.box
        assert 0 <= left < right <= width and right - left == min(side, width)
        assert 0 <= top < bottom <= height and bottom - top == min(side, height)
        y, x = np.ogrid[:height, :width]
        # a border of the image is no border of the tile
        to_left, to_right = x - left + 1e9 * (left == 0), right - 1 - x + 1e9 * (right == width)
        to_top, to_bottom = y - top + 1e9 * (top == 0), bottom - 1 - y + 1e9 * (bottom == height)
        depths.append(np.minimum(np.minimum(to_left, to_right), np.minimum(to_top, to_bottom)))
    best = np.max(depths, axis=0)
    for tile, depth in zip(tiles, depths, strict=True):
        own = np.s_[tile.rows.own_start : tile.rows.own_stop, tile.columns.own_start : tile.columns.own_stop]
        owned[own] += 1
        assert (depth[own] >= best[own] - 1).all()
    assert (owned == 1).all() and (len(tiles) == 1 or best.min() >= side // 8 - 1)


def test_only_images_above_a_size_are_tiled_by_default():
    assert len(tiles_of(8192, 8192, None)) == 1 < len(tiles_of(8192, 8193, None))
    assert len(tiles_of(8192, 8193, 0)) == 1


def test_a_tile_that_is_too_small_is_refused_and_the_number_of_tiles_is_said(tmp_path, capsys):
    Image.new('RGB', (300, 200)).save(tmp_path / '[x].png')
    predictor = local_predictor(tmp_path, 'seg')
    with pytest.raises(UserError, match=r'tile 10 must be 0 \(the whole image\) or at least 64 pixels'):
        predictor(tmp_path / '[x].png', tmp_path / 'out', tile=10)
    predictor(tmp_path / '[x].png', tmp_path / 'out', tile=128)
    said = f'{tmp_path}/[x].png: 300 x 200 pixels are predicted in 6 tiles of 128 x 128 pixels; --tile 0 predicts'
    assert said in capsys.readouterr().out
    predictor(tmp_path / '[x].png', tmp_path / 'out', tile=0)
    assert 'tiles of' not in capsys.readouterr().out


def test_runs_of_parts_are_cocos_run_lengths_of_the_whole_mask():
    rng = np.random.default_rng(0)
    for density in (0, 0.02, 0.5, 1):
        masks = []
        for left, top in ((0, 0), (7, 4), (13, 9)):
            mask = np.zeros((20, 30), bool)
            mask[top : top + 11, left : left + 17] = rng.random((11, 17)) < density
            runs = runs_of(mask[top : top + 11, left : left + 17], left, top, 20)
            expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            assert to_coco(runs, 20, 30)['counts'].encode() == expected['counts']
            rows, columns = np.array([0, 3, 4, 12, 19]), np.arange(1, 30, 3)
            assert np.array_equal(sampled(runs, 20, rows, columns), mask[np.ix_(rows, columns)])
            masks.append((mask, runs))
        expected = coco_mask.encode(np.asfortranarray(np.any([mask for mask, _ in masks], 0).astype(np.uint8)))
        assert to_coco(union([runs for _, runs in masks]), 20, 30)['counts'].encode() == expected['counts']
    full = runs_of(np.ones((20, 30), bool), 0, 0, 20)
    assert full.tolist() == [0, 600]  # the runs of whole columns are one


def write_header(path: Path, side: int) -> None:
    """A PNG file that says it has ``side`` x ``side`` pixels, and has none."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))

    header = chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 8, 0, 0, 0, 0))
    path.write_bytes(
        b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(bytes(side + 1))) + chunk(b'IEND', b'')
    )


def test_an_image_with_more_pixels_than_opencv_reads_is_refused_with_the_variable_to_set(tmp_path):
    write_header(tmp_path / 'a.png', 2**15 + 1)
    predictor = local_predictor(tmp_path, 'seg')
    with pytest.raises(
        UserError, match=r'a\.png: it has more than the 2\*\*30 pixels .*OPENCV_IO_MAX_IMAGE_PIXELS=\d+ in'
    ):
        predictor(tmp_path / 'a.png', tmp_path / 'out')
    predictor.pipeline.loader.imdecode_backend = 'pillow'
    with pytest.raises(UserError, match=r"more than the \d+ pixels that PIL reads: set imdecode_backend='cv2'"):
        predictor(tmp_path / 'a.png', tmp_path / 'out')


def predict_and_measure(folder: Path, task: str, answer: multiprocessing.SimpleQueue) -> None:
    """Predict ``a.png``; answer with the peak memory beyond that of the start, in bytes."""
    predictor = local_predictor(folder, task)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results = predictor(folder / 'a.png', folder / 'out', tile=1024)
    answer.put(((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, len(results)))


@pytest.mark.parametrize(
    ('task', 'side'),
    [('det', 3000), *(pytest.param(task, 20_000, marks=pytest.mark.full_size) for task in ('det', 'seg'))],
)
def test_an_image_needs_the_memory_of_its_pixels_and_labels_and_a_constant(task, side, tmp_path):
    pixels, step = np.full((side, side, 3), 90, np.uint8), side // 30
    for y in range(0, side - step, step):
        for x in range(0, side - step, step):
            pixels[y : y + step * 2 // 3, x : x + step * 2 // 3] = (0, 0, 255)  # red in BGR
    cv2.imwrite(str(tmp_path / 'a.png'), pixels)
    del pixels
    context = multiprocessing.get_context('fork')
    answer = context.SimpleQueue()
    process = context.Process(target=predict_and_measure, args=(tmp_path, task, answer))
    process.start()
    process.join(TIME_LIMIT)
    assert process.exitcode == 0
    peak, count = answer.get()
    assert count == (len(range(0, side - step, step)) ** 2 if task == 'det' else 1)
    # OpenCV needs the image twice while it decodes it. A dense mask for each object would need more, and so would a
    # float for each pixel and class
    assert peak < 2 * 3 * side * side + (500 << 20), f'{peak / 2**20:.0f} MiB'
    print(f'{task} {side}: {peak / 2**20:.0f} MiB')
    assert max(Image.open(tmp_path / 'out/pictures/a.png').size) < 5000
