"""Draw a mini COCO, ADE20K or ImageNet, in the layout on disk that mmdet, mmseg or timm reads.

    python tools/make_mini_dataset.py coco data/mini_coco
    python tools/make_mini_dataset.py ade20k data/mini_ade20k --images 480 --seed 0
    python tools/make_mini_dataset.py imagenet data/mini_imagenet --images 960

A class has a shape, a texture and two colours that vary widely. Where things overlap, a pixel has the label of the one
on top. The random state of a picture depends only on seed, split and number, so more images never change the earlier
ones. The same seed gives the same bytes under the same numpy and OpenCV.
"""

import argparse
import doctor  # noqa: F401  (says what to type if an import below fails)
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import NamedTuple, NoReturn

import cv2
import numpy as np

COCO_CLASSES = {'stop sign': 13, 'sports ball': 37, 'kite': 38, 'banana': 52, 'pizza': 59, 'donut': 60}
SUPERCATEGORIES = {13: 'outdoor', 37: 'sports', 38: 'sports', 52: 'food', 59: 'food', 60: 'food'}
ADE_CLASSES = {1: 'wall', 2: 'building', 3: 'sky', 4: 'floor', 5: 'tree', 7: 'road', 9: 'windowpane', 10: 'grass'}
ADE_CLASSES |= {17: 'mountain', 120: 'ball', 149: 'clock'}
WALL, BUILDING, SKY, FLOOR, TREE, ROAD, WINDOWPANE, GRASS, MOUNTAIN, BALL, CLOCK = ADE_CLASSES
OTHER = 0  # ADE20K's label for whatever belongs to none of its 150 classes; here, kites
RADIUS = (12.0, 54.0)  # pixels, half the length of an object
TURN = 0.5  # radians, the most that an object is turned
SPREAD = 25.0  # RGB levels, the most that a colour differs from the typical one
MIN_PIXELS, MIN_VISIBLE = 24, 0.5  # every object shows at least so many pixels, and this share of its area
VAL_IDS = 10**9  # added to COCO's ids in the validation split, so that the two splits never share an id
VERSIONS = dict(coco=1, ade20k=1, imagenet=1)  # of the drawings: raise it with any change of a byte of the output

Array = np.ndarray
Colours = list[Array]  # RGB in 0..255
Range = tuple[int, int]  # both ends belong to it


def shape(name: str, u: Array, v: Array) -> tuple[Array, Array]:
    """What a class looks like at (u, v), v downwards, in units of its radius.

    Returns:
        The distance from its outline, negative inside; a pattern, true where the second of its two colours shows.
    """
    r, a, b = np.hypot(u, v), abs(u), abs(v)
    match name:
        case 'stop sign':  # an octagon with a rim and a bar of lettering
            distance = np.maximum(np.maximum(a, b), (a + b) / 2**0.5) - 0.95
            return distance, (distance > -0.16) | ((b < 0.2) & (a < 0.6))
        case 'sports ball' | 'ball':  # a disc with the seams of a basketball
            return r - 1, np.minimum(np.minimum(a, b), abs(np.hypot(a - 1.2, v) - 0.75)) < 0.07
        case 'kite':  # four chequered panels; the spars cross above the middle
            v = v + 0.3
            return 0.55 * (a / 0.68 + abs(v) / np.where(v < 0, 0.7, 1.3) - 1), u * v > 0
        case 'banana':  # a crescent with two tips
            return np.maximum(np.hypot(u - 0.45, v) - 1, 0.85 - np.hypot(u - 1.07, v)), b > 0.72
        case 'pizza':  # a slice with its crust and three rounds of salami
            r = np.hypot(u, v + 1)
            rounds = [np.hypot(u - x, v - y) < 0.17 for x, y in ((0.24, 0.2), (-0.27, 0.32), (0, -0.25))]
            return np.maximum(0.86 * a - 0.5 * (v + 1), r - 1.9), np.any([r > 1.62, *rounds], axis=0)
        case 'donut':  # a ring with sprinkles; one looks through the hole
            return abs(r - 0.68) - 0.32, np.sin(10 * u + 1) * np.sin(10 * v) > 0.45
        case 'clock':  # a face with a rim and two hands
            hands = ((a < 0.09) & (abs(v + 0.28) < 0.38)) | ((b < 0.09) & (abs(u - 0.25) < 0.25))
            return r - 1, (r > 0.82) | hands
        case 'windowpane':  # a frame of 2 x 3 panes
            distance = np.maximum(a - 0.72, b - 1)
            return distance, (distance > -0.12) | (a < 0.06) | (abs(b - 0.33) < 0.06)
        case 'tree':  # a lobed crown of dark and light leaves on a trunk
            crown = np.hypot(u, v + 0.25) - 0.7 - 0.06 * np.sin(9 * np.arctan2(v + 0.25, u))
            trunk = np.maximum(a - 0.1, abs(v - 0.6) - 0.4)
            return np.minimum(crown, trunk), np.sin(13 * u + 4 * v) * np.sin(13 * v - 4 * u) > 0.1
    raise ValueError(name)


def noise(rng: np.random.Generator, x: Array, across: int, down: int) -> Array:
    """Smooth noise in 0..1 of the shape of x, with a random value for every `across` columns and `down` rows."""
    h, w = x.shape
    grid = rng.random((h // down + 2, w // across + 2), dtype=np.float32)
    return np.clip(cv2.resize(grid, (w, h), interpolation=cv2.INTER_CUBIC), 0, 1)


SURFACES = {  # two typical colours, and the second one's share, 0..1, from pixel coordinates
    WALL: ((212, 198, 174), (182, 164, 138), lambda rng, x, y: x % 14 < 4),  # striped paper
    BUILDING: ((178, 128, 104), (72, 76, 96), lambda rng, x, y: (x % 13 < 7) & (y % 17 < 10)),  # rows of windows
    SKY: ((116, 168, 226), (240, 244, 248), lambda rng, x, y: noise(rng, x, 48, 20) ** 2),  # clouds
    FLOOR: ((168, 120, 76), (104, 68, 40), lambda rng, x, y: (y % 11 < 2) | ((x + 23 * (y // 11)) % 40 < 2)),  # planks
    ROAD: ((76, 76, 82), (136, 136, 138), lambda rng, x, y: 0.6 * noise(rng, x, 2, 2) + 0.4 * noise(rng, x, 30, 30)),
    GRASS: ((76, 132, 44), (152, 192, 88), lambda rng, x, y: noise(rng, x, 2, 9)),  # blades
    MOUNTAIN: ((134, 122, 124), (78, 68, 82), lambda rng, x, y: noise(rng, x, 22, 7)),  # strata
}
LOOKS = {  # two typical colours of things; kites come in any
    **dict.fromkeys(('sports ball', 'ball'), ((220, 120, 50), (50, 40, 40))),
    'stop sign': ((200, 40, 40), (235, 235, 235)),
    'banana': ((230, 200, 60), (120, 90, 40)),
    'pizza': ((240, 195, 110), (190, 60, 40)),
    'donut': ((150, 90, 50), (240, 170, 190)),
    'clock': ((235, 230, 220), (45, 40, 40)),
    'windowpane': ((95, 130, 170), (235, 235, 230)),
    'tree': ((45, 90, 40), (105, 150, 65)),
}


class Cutout(NamedTuple):
    """Something to lay on a picture: its window there, and arrays of the window's size."""

    window: tuple[slice, slice]
    alpha: Array
    pattern: Array
    shade: Array
    colours: tuple  # two typical colours, or None twice
    area: int  # in pixels, with those beyond the border of the picture


class Scene:
    """A picture being painted: `image` (h, w, 3), RGB in 0..255, and `owner` (h, w), the owner of each pixel."""

    def __init__(self, rng: np.random.Generator, widths: Range = (200, 256), heights: Range = (150, 192)) -> None:
        self.rng = rng
        self.w, self.h = (int(rng.integers(*size, endpoint=True)) for size in (widths, heights))
        if rng.random() < 0.2:  # upright
            self.w, self.h = self.h, self.w
        self.y, self.x = np.mgrid[: self.h, : self.w].astype(np.float32)
        self.image = np.zeros((self.h, self.w, 3), np.float32)
        self.owner = np.zeros((self.h, self.w), np.int32)
        self.palette: dict[int, Colours] = {}  # the colours last used for each owner

    def colour(self, avoid: Colours, typical: tuple | None = None) -> Array:
        """A random colour, around the typical one if there is one, and far from those to avoid.

        Far means 110 levels in RGB. As long as no such colour is found, the distance is lowered a little.
        """
        low, high = (0, 255) if typical is None else (np.subtract(typical, SPREAD), np.add(typical, SPREAD))
        gap = 110.0
        while True:
            colour = self.rng.uniform(np.maximum(low, 15), np.minimum(high, 240), 3).astype(np.float32)
            if all(np.linalg.norm(colour - other) >= gap for other in avoid):
                return colour
            gap *= 0.99

    def surface(self, index: int, top: Array | float = -1.0) -> Cutout:
        """An ADE20K surface from row `top`, one number or one for each column, down to the lower border."""
        alpha = np.clip(self.y - top + 0.5, 0, 1)
        pattern = SURFACES[index][2](self.rng, self.x, self.y)
        return Cutout(np.s_[:, :], alpha, pattern, np.ones_like(alpha), SURFACES[index][:2], alpha.size)

    def thing(self, name: str, x: float, y: float, radius: float, upright: bool = False) -> Cutout:
        """An object with its centre inside the picture, turned at random unless it stands upright."""
        x, y, reach = int(x), int(y), int(1.5 * radius) + 2
        down, right = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32) / radius
        angle, stretch = 0 if upright else self.rng.uniform(-TURN, TURN), self.rng.uniform(0.88, 1)
        u, v = right * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - right * np.sin(angle)
        distance, pattern = shape(name, u / stretch, v)
        alpha = np.clip(0.5 - distance * radius, 0, 1)
        shade = 1 - 0.15 * (right + down)  # light from the upper left
        part = np.s_[max(0, reach - y) : reach - y + self.h, max(0, reach - x) : reach - x + self.w]
        window = np.s_[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        area, colours = int((alpha >= 0.5).sum()), LOOKS.get(name, (None, None))
        return Cutout(window, alpha[part], pattern[part], shade[part], colours, area)

    def lay(self, owner: int, cutout: Cutout, colours: Colours | None = None) -> None:
        """Lay a cutout on top; its owner gets the pixels that it covers by half.

        Without `colours`, it gets two near its typical ones that differ from each other and from all that it covers.
        """
        window, alpha, pattern, shade, typical, _ = cutout
        if colours is None:
            avoid = [c for covered in np.unique(self.owner[window][alpha > 0]) for c in self.palette[int(covered)]]
            first = self.colour(avoid, typical[0])
            colours = [first, self.colour([*avoid, first], typical[1])]
        paint = (colours[0] + pattern[..., None] * (colours[1] - colours[0])) * shade[..., None]
        self.image[window] += alpha[..., None] * (paint - self.image[window])
        self.owner[window][alpha >= 0.5] = owner
        self.palette[owner] = colours

    def lay_background(self) -> None:
        """Lay any ADE20K surface, in any two colours, under all that comes; its owner is 0."""
        base = self.colour([])
        base += 0.4 * (base.mean() - base)  # backgrounds are duller than objects
        other = base + self.rng.uniform(-45, 45, 3).astype(np.float32)
        self.lay(0, self.surface(int(self.rng.choice(list(SURFACES)))), [base, other])

    def photograph(self) -> Array:
        """The finished picture, (h, w, 3) uint8: uneven light, a soft lens, a noisy sensor."""
        angle = self.rng.uniform(0, 2 * np.pi)
        light = 1 + 0.2 * (np.cos(angle) * (self.x / self.w - 0.5) + np.sin(angle) * (self.y / self.h - 0.5))
        image = cv2.GaussianBlur(self.image * light[..., None], (0, 0), self.rng.uniform(0.3, 0.7))
        image += self.rng.uniform(2, 6) * self.rng.standard_normal(image.shape, dtype=np.float32)
        return np.clip(image, 0, 255).astype(np.uint8)


def draw_objects(rng: np.random.Generator, number: int) -> tuple[Array, list[tuple[str, Array, bool]]]:
    """Draw a picture for detection; every 20th has no objects, and every 10th has a crowd.

    An object is left out if it, or an object below it, would show too little. So whatever shows is annotated.

    Returns:
        The picture; for each object its class name, its visible mask (h, w), and whether it is a crowd.
    """
    scene = Scene(rng)
    scene.lay_background()
    names: list[str] = []  # object i owns the pixels i + 1
    areas: list[int] = []  # in pixels, with what is hidden
    if crowd := number % 10 == 3:
        names.append(str(rng.choice(list(COCO_CLASSES))))
        x, y = rng.uniform(0.3, 0.7, 2) * (scene.w, scene.h)
        for dx, dy in rng.uniform(-1, 1, (int(rng.integers(9, 15)), 2)) * (38, 26):
            scene.lay(1, scene.thing(names[0], x + dx, y + dy, rng.uniform(6, 10)))
        areas.append(int((scene.owner == 1).sum()))
    wanted = crowd + (0 if number % 20 == 5 else int(rng.integers(1, 7)))
    for _ in range(4 * wanted):
        if len(names) == wanted:
            break
        name, (x, y) = str(rng.choice(list(COCO_CLASSES))), rng.uniform(0, 1, 2) * (scene.w, scene.h)
        thing = scene.thing(name, x, y, np.exp(rng.uniform(*np.log(RADIUS))))
        owner = scene.owner.copy()
        owner[thing.window][thing.alpha >= 0.5] = len(names) + 1
        visible = np.bincount(owner.ravel(), minlength=len(names) + 2)[1:]
        if (visible >= np.maximum(MIN_PIXELS, MIN_VISIBLE * np.array([*areas, thing.area]))).all():
            scene.lay(len(names) + 1, thing)
            names.append(name)
            areas.append(thing.area)
    objects = [(name, scene.owner == i, crowd and i == 1) for i, name in enumerate(names, 1)]
    return scene.photograph(), objects


def draw_surfaces(rng: np.random.Generator) -> tuple[Array, Array, str]:
    """Draw a picture for segmentation: a room or an open place, with a few things in it.

    Returns:
        The picture; the ADE20K index of every pixel, (h, w) uint8; ADE20K's name for such a scene.
    """
    scene = Scene(rng)
    horizon = scene.h * rng.uniform(0.45, 0.65) + rng.uniform(-0.08, 0.08) * (scene.x - scene.w / 2)
    level = float(horizon.mean())

    def cover(index: int, top: Array | float = -1.0) -> None:
        surface = scene.surface(index, top)
        scene.lay(index, surface, list(np.float32(surface.colours) + rng.uniform(-24, 24, 3).astype(np.float32)))

    def put(index: int, rows: tuple[float, float], radii: tuple[float, float], upright: bool) -> None:
        name, x, y = ADE_CLASSES.get(index, 'kite'), rng.uniform(0, scene.w), rng.uniform(*rows)
        scene.lay(index, scene.thing(name, x, y, rng.uniform(*radii), upright))

    if rng.random() < 0.5:
        kind = 'living_room'
        cover(WALL)
        for _ in range(rng.integers(1, 3)):
            put(WINDOWPANE, (0.3 * level, 0.6 * level), (18, 32), upright=True)
        cover(FLOOR, horizon)
    else:
        kind = ['street', 'mountain'][rng.integers(2)]
        cover(SKY)
        if kind == 'street':
            skyline = rng.uniform(10, 60, 16)[(scene.x // rng.integers(24, 48)).astype(int)]
            cover(BUILDING, horizon - skyline)
        else:
            cover(MOUNTAIN, horizon - 55 * noise(rng, scene.x, 32, 2 * scene.h)[:1])
        far, near = rng.permutation([GRASS, ROAD]).tolist()
        cover(far, horizon)
        if rng.random() < 0.4:
            cover(near, horizon + rng.uniform(0.3, 0.6) * (scene.h - level))
        for _ in range(rng.integers(0, 3)):
            put(TREE, (level - 20, level), (20, 38), upright=True)
    for _ in range(rng.integers(1, 5)):
        index = [BALL, CLOCK, OTHER][rng.integers(3)]
        put(index, (0, level) if index == CLOCK else (level, scene.h), (12, 28), upright=index == CLOCK)
    return scene.photograph(), scene.owner.astype(np.uint8), kind


def draw_portrait(rng: np.random.Generator, name: str) -> Array:
    """Draw a picture for classification: one large object, over up to two small ones of other classes."""
    scene = Scene(rng, (96, 128), (96, 128))
    scene.lay_background()
    size = np.array([scene.w, scene.h])
    others = [other for other in COCO_CLASSES if other != name]
    for owner, other in enumerate(rng.choice(others, rng.integers(3), replace=False), 1):
        scene.lay(owner, scene.thing(str(other), *rng.uniform(0, 1, 2) * size, rng.uniform(8, 13)))
    subject = scene.thing(name, *rng.uniform(0.4, 0.6, 2) * size, size.min() * rng.uniform(0.32, 0.46))
    scene.lay(len(COCO_CLASSES), subject)
    return scene.photograph()


def polygons(mask: Array, left: int = 0) -> list[list[float]]:
    """Outline a mask by COCO polygons.

    Polygons have no holes, so a mask is cut in two at a hole. The outline runs a quarter of a pixel inside the mask's
    edge. Whether a polygon covers a pixel depends on the pixel's centre, which is another quarter of a pixel away. So
    points that bend the line by less than that are dropped.

    Args:
        mask: The mask (h, w).
        left: Added to all x, for a part of a mask that starts at this column.
    """
    doubled = mask.astype(np.uint8).repeat(2, 0).repeat(2, 1)
    contours, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for contour, (*_, parent) in zip(contours, [] if tree is None else tree[0], strict=True):
        if parent >= 0:
            cut = int(contour[:, 0, 0].min() + contour[:, 0, 0].max()) // 4
            return polygons(mask[:, :cut], left) + polygons(mask[:, cut:], left + cut)
    outlines = [cv2.approxPolyDP(contour, 0.5, True)[:, 0] for contour in contours]
    return [((outline + 0.5) / 2 + (left, 0)).ravel().tolist() for outline in outlines]


def run_lengths(mask: Array) -> dict:
    """Encode a mask as COCO's uncompressed RLE: the lengths of its runs of zeros, ones, zeros, ... down the columns."""
    changes = np.flatnonzero(np.diff(mask.ravel(order='F'), prepend=False))
    return dict(counts=np.diff(changes, prepend=0, append=mask.size).tolist(), size=list(mask.shape))


def save(path: Path, image: Array, *options: int) -> None:
    """Write an RGB or a one-channel uint8 picture in the format of its suffix."""
    path.write_bytes(cv2.imencode(path.suffix, image[..., ::-1] if image.ndim == 3 else image, options)[1].tobytes())


def write_coco(root: Path, splits: dict[str, int], seed: int) -> str:
    """Write {train,val}2017/ and annotations/instances_{train,val}2017.json."""
    total: Counter[str] = Counter()
    (root / 'annotations').mkdir()
    for split, (name, count) in enumerate(splits.items()):
        (root / f'{name}2017').mkdir()
        images, annotations = [], []
        for number in range(1, count + 1):
            picture, objects = draw_objects(np.random.default_rng([seed, split, number]), number)
            image_id = number + split * VAL_IDS
            file_name = f'{image_id:012d}.jpg'
            save(root / f'{name}2017' / file_name, picture, cv2.IMWRITE_JPEG_QUALITY, 90)
            h, w = picture.shape[:2]
            images.append(dict(license=1, file_name=file_name, height=h, width=w, id=image_id))
            if not objects:
                total['images without objects'] += 1
            for class_name, mask, crowd in objects:
                total['crowds' if crowd else class_name] += 1
                category, number_so_far = COCO_CLASSES[class_name], len(annotations) + 1
                mark = dict(id=number_so_far + split * VAL_IDS, image_id=image_id, category_id=category)
                mark |= dict(iscrowd=int(crowd), segmentation=run_lengths(mask) if crowd else polygons(mask))
                mark |= dict(area=float(mask.sum()), bbox=[float(n) for n in cv2.boundingRect(mask.astype(np.uint8))])
                annotations.append(mark)
        content = dict(
            info=dict(
                description=f'Mini COCO, drawn by {Path(__file__).name} with seed {seed}', version=str(VERSIONS['coco'])
            ),
            licenses=[dict(id=1, name='Drawn by a program', url='')],
            images=images,
            annotations=annotations,
            categories=[dict(supercategory=SUPERCATEGORIES[i], id=i, name=name) for name, i in COCO_CLASSES.items()],
        )
        (root / 'annotations' / f'instances_{name}2017.json').write_text(json.dumps(content))
    return 'objects: ' + ', '.join(f'{key} {total[key]}' for key in [*COCO_CLASSES, 'crowds', 'images without objects'])


def write_ade20k(root: Path, splits: dict[str, int], seed: int) -> str:
    """Write images/, annotations/, objectInfo150.txt, with the classes drawn, and sceneCategories.txt."""
    pixels: Counter[int] = Counter()
    found: dict[str, Counter[int]] = {name: Counter() for name in splits}
    scenes = []
    for split, (name, count) in enumerate(splits.items()):
        folder = {'train': 'training', 'val': 'validation'}[name]
        for parent in ('images', 'annotations'):
            (root / parent / folder).mkdir(parents=True)
        for number in range(1, count + 1):
            picture, labels, kind = draw_surfaces(np.random.default_rng([seed, split, number]))
            stem = f'ADE_{name}_{number:08d}'
            save(root / 'images' / folder / f'{stem}.jpg', picture, cv2.IMWRITE_JPEG_QUALITY, 90)
            save(root / 'annotations' / folder / f'{stem}.png', labels)
            scenes.append(f'{stem} {kind}\n')
            sizes = np.bincount(labels.ravel())
            pixels.update({i: int(sizes[i]) for i in np.flatnonzero(sizes)})
            found[name].update(np.flatnonzero(sizes))
    rows = ['Idx\tRatio\tTrain\tVal\tName\n']
    for i, name in ADE_CLASSES.items():
        rows.append(f'{i}\t{pixels[i] / pixels.total():.4f}\t{found["train"][i]}\t{found["val"][i]}\t{name}\n')
    (root / 'objectInfo150.txt').write_text(''.join(rows))
    (root / 'sceneCategories.txt').write_text(''.join(scenes))
    both = found['train'] + found['val']
    return 'images with: ' + ', '.join(f'{name} {both[i]}' for i, name in [*ADE_CLASSES.items(), (OTHER, 'other')])


def write_imagenet(root: Path, splits: dict[str, int], seed: int) -> str:
    """Write {train,val}/<class>/, with the classes in turn."""
    total: Counter[str] = Counter()
    classes = list(COCO_CLASSES)
    for split, (name, count) in enumerate(splits.items()):
        for number in range(1, count + 1):
            class_name = classes[(number - 1) % len(classes)]
            folder = root / name / class_name.replace(' ', '_')
            folder.mkdir(parents=True, exist_ok=True)
            picture = draw_portrait(np.random.default_rng([seed, split, number]), class_name)
            save(folder / f'{name}_{number:08d}.jpg', picture, cv2.IMWRITE_JPEG_QUALITY, 90)
            total[class_name] += 1
    return 'images: ' + ', '.join(f'{key} {total[key]}' for key in classes)


class Parser(argparse.ArgumentParser):
    """A parser that reports every error in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'{self.prog}: {message}\n')


def main() -> None:
    """Draw the data set in a folder beside OUT, and rename the folder to OUT when it is complete."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('kind', choices=list(VERSIONS))
    parser.add_argument('out', type=Path, help='a folder that is empty or does not exist')
    parser.add_argument(
        '--images',
        type=int,
        default=480,
        help='training images (default: 480); a quarter of them is added for validation',
    )
    parser.add_argument('--seed', type=int, default=0, help='0 or more (default: 0)')
    args = parser.parse_args()
    least = len(COCO_CLASSES) if args.kind == 'imagenet' else 1  # no folder of a class may be missing
    if args.images < least:
        parser.error(f'--images must be {least} or more, not {args.images}')
    if args.seed < 0:
        parser.error(f'--seed must be 0 or more, not {args.seed}')
    write = dict(coco=write_coco, ade20k=write_ade20k, imagenet=write_imagenet)[args.kind]
    splits = {'train': args.images, 'val': max(2, least, args.images // 4)}
    identity = json.dumps(dict(kind=args.kind, seed=args.seed, images=args.images, version=VERSIONS[args.kind]))
    out = args.out.resolve()
    part = out.with_name(f'.{out.name}.{os.getpid()}.part')
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            record = out / 'mini.json'
            if record.is_file() and record.read_bytes() == identity.encode():
                print(f'{out} already holds this data set')
                return
            parser.error(f'{out} holds something else: name another folder, or remove this one first')
        part.mkdir(parents=True)
        statistics = write(part, splits, args.seed)
        (part / 'mini.json').write_text(identity)
        part.replace(out)
    except OSError as error:
        parser.error(f'cannot write {out}: {error.strerror}')
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(f'{splits["train"]} training and {splits["val"]} validation images ({args.kind}, seed {args.seed}) in {out}')
    print(statistics)


if __name__ == '__main__':
    main()
