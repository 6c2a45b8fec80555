"""Label files of other formats, written by the formats' own rules, and the converted data as pycocotools loads it."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from mmdet_plugin.formats import READERS, Folder, detect
from mmdet_plugin.formats.output import write

HEIGHT, WIDTH = 40, 60
BOX = (10, 5, 20, 15)  # left, top, width and height
POLYGON = [30.25, 10.5, 50.75, 12.125, 41.5, 33.0]
HOLED = ((4, 4, 24, 24), (10, 8, 16, 20))  # left, top, right and bottom of a rectangle and of the hole in it


def draw(path: Path, height: int = HEIGHT, width: int = WIDTH) -> Path:
    """An image at a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def save(path: Path, content: object) -> Path:
    """A text file, or a JSON file if the content is not a text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding='utf-8')
    return path


def rectangle(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """The pixels of a rectangle in an image, bool."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


def png(mask: np.ndarray) -> bytes:
    """A mask as a PNG of 0 and 255."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, 'PNG')
    return file.getvalue()


def convert(src: Path, name: str | None = None, mixed: str | None = None, **options) -> dict[str, COCO]:
    """The converted splits, as pycocotools loads them."""
    folder, out = Folder(src), src.parent / f'{src.name}_out'
    name = name or detect(folder)
    write(READERS[name](folder), src, out, mixed, options.get('val_fraction', 0.2), options.get('seed', 0))
    return {path.stem: COCO(str(path)) for path in sorted((out / 'annotations').iterdir())}


def annotations(coco: COCO, name: str) -> list[dict]:
    """The annotations of the image with this file name, each with the name of its class."""
    (image,) = (i for i in coco.dataset['images'] if Path(i['file_name']).name == name)
    assert (image['height'], image['width']) == (HEIGHT, WIDTH)
    return [dict(a, name=coco.cats[a['category_id']]['name']) for a in coco.imgToAnns[image['id']]]


def names(coco: COCO) -> list[str]:
    """The classes in their order; their ids count from 1."""
    categories = coco.dataset['categories']
    assert [category['id'] for category in categories] == list(range(1, len(categories) + 1))
    return [category['name'] for category in categories]


def yolo_box(x: float, y: float, w: float, h: float) -> str:
    """The centre and the size of a box in fractions of the image."""
    return ' '.join(f'{v!r}' for v in ((x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT))


def yolo_polygon(points: list[float]) -> str:
    return ' '.join(
        repr(value / side) for value, side in zip(points, [WIDTH, HEIGHT] * (len(points) // 2), strict=True)
    )


def voc_file(path: Path, objects: str, size: str = f'<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>'):
    return save(path, f'<annotation><filename>{path.stem}.jpg</filename>{size}{objects}</annotation>')


def voc_object(name: str, corners: tuple, more: str = '') -> str:
    box = ''.join(f'<{k}>{v}</{k}>' for k, v in zip(('xmin', 'ymin', 'xmax', 'ymax'), corners, strict=True))
    return f'<object><name>{name}</name>{more}<bndbox>{box}</bndbox><part><bndbox/></part></object>'


def labelme_file(path: Path, shapes: list[dict], **more: object) -> Path:
    content = dict(version='5.5.0', flags={}, shapes=shapes, imagePath=f'{path.stem}.png', imageData=None)
    return save(path, content | dict(imageHeight=HEIGHT, imageWidth=WIDTH) | more)


def labelme_shape(kind: str | None, points: list, label: str = 'pet', **more: object) -> dict:
    return dict(label=label, points=points, shape_type=kind, group_id=None, flags={}) | more


def pairs(points: list[float]) -> list[list[float]]:
    return [[x, y] for x, y in zip(points[0::2], points[1::2], strict=True)]


def cvat_file(path: Path, images: str, labels: str = 'dog cat') -> Path:
    listed = ''.join(f'<label><name>{name}</name></label>' for name in labels.split())
    meta = f'<meta><task><labels>{listed}</labels></task></meta>'
    return save(path, f'<?xml version="1.0" encoding="utf-8"?><annotations>{meta}{images}</annotations>')


def supervisely_object(kind: str, name: str = 'cat', **more: object) -> dict:
    return dict(classTitle=name, geometryType=kind, tags=[]) | more


def coco_content(*entries: dict) -> dict:
    image = dict(id=7, file_name='a.png', height=HEIGHT, width=WIDTH)
    groups = [dict(id=0, name='pets', supercategory='none')]
    groups += [dict(id=i, name=name, supercategory='pets') for i, name in ((2, 'dog'), (1, 'cat'))]
    return dict(images=[image], annotations=list(entries), categories=groups)
