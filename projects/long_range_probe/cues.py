#!/usr/bin/env python
"""Draw the data of the long-range probe: strips with a cue, far from the targets whose label it tells.

    python projects/long_range_probe/cues.py data/mini/cue
    python projects/long_range_probe/cues.py OUT --images 480 --seed 0 --distances 32 128 448

A strip is 512 pixels wide and 48 high. The colour of its one ball, the cue, is the label, 1 or 2, of all its kites,
the targets, which look the same under both labels. On each side of the ball there is a kite at each distance that the
strip has room for. Three windowpanes in the ball's two colours distract. The same seed gives the same bytes under the
same numpy and OpenCV, and more images never change the earlier ones.

It writes images and labels in the layout of ADE20K, and cues.json, which says where cues and targets lie.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from backbones.errors import UserError
from mmengine_plugin.cli.arguments import positive
from mmengine_plugin.cli.error_messages import run

WIDTH, HEIGHT = 512, 48  # pixels of a strip
CELL = 16  # pixels, width and height of the cell that holds one thing
DISTANCES = (32, 64, 96, 128, 192, 256, 320, 384, 448)  # pixels from a cue to its targets
CUE_COLOURS = ((215, 75, 60), (60, 105, 215))  # typical of labels 1 and 2, RGB
INK, PAPER = np.full((2, 3), [[40], [235]], np.float32)
VERSION = 2  # of the drawings: raise it with any change that alters a byte of the output
JPEG = (cv2.IMWRITE_JPEG_QUALITY, 90)
# without subsampling, a colour stays within its block of 8 x 8 pixels
JPEG += (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
Array = np.ndarray


class Strip:
    """A picture being painted.

    Attributes:
        image: The picture ``(H, W, 3)``, RGB in 0..255, float32.
        labels: The label of every pixel ``(H, W)``, uint8.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        base = random_colour(rng)
        base += 0.9 * (base.mean() - base)  # nearly grey
        grid = rng.random((HEIGHT // 20 + 2, WIDTH // 48 + 2), dtype=np.float32)
        clouds = np.clip(cv2.resize(grid, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), 0, 1) ** 2
        other = base + rng.uniform(-8, 8, 3).astype(np.float32)
        self.image = base + clouds[..., None] * (other - base)

    def put(self, name: str, x: int, y: int, radius: float, colours: Sequence[Array], label: int = 0) -> None:
        """Paint a thing in two colours, turned at random around ``(x, y)``, and label what it covers by half."""
        reach = int(1.5 * radius) + 2
        down, right = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32) / radius
        angle, stretch = self.rng.uniform(-0.5, 0.5), self.rng.uniform(0.88, 1)
        u, v = right * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - right * np.sin(angle)
        distance, pattern = outline(name, u / stretch, v)
        opacity = np.clip(0.5 - distance * radius, 0, 1)
        shade = 1 - 0.15 * (right + down)  # light from the upper left
        inside = np.s_[max(0, reach - y) : reach - y + HEIGHT, max(0, reach - x) : reach - x + WIDTH]
        window = np.s_[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        paint = (colours[0] + pattern[inside][..., None] * (colours[1] - colours[0])) * shade[inside][..., None]
        self.image[window] += opacity[inside][..., None] * (paint - self.image[window])
        self.labels[window][opacity[inside] >= 0.5] = label

    def photograph(self) -> Array:
        """The finished picture ``(H, W, 3)``, uint8: with uneven light, a soft lens and a noisy sensor."""
        y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
        angle = self.rng.uniform(0, 2 * np.pi)
        light = 1 + 0.2 * (np.cos(angle) * (x / WIDTH - 0.5) + np.sin(angle) * (y / HEIGHT - 0.5))
        image = cv2.GaussianBlur(self.image * light[..., None], (0, 0), self.rng.uniform(0.3, 0.7))
        image += self.rng.uniform(2, 6) * self.rng.standard_normal(image.shape, dtype=np.float32)
        return np.clip(image, 0, 255).astype(np.uint8)


def random_colour(rng: np.random.Generator, typical: Sequence[int] | None = None) -> Array:
    """A random colour, RGB, float32; within 25 levels of the typical one if there is one."""
    if typical is None:
        low, high = 0, 255
    else:
        low, high = np.subtract(typical, 25), np.add(typical, 25)
    return rng.uniform(np.maximum(low, 15), np.minimum(high, 240), 3).astype(np.float32)


def outline(name: str, u: Array, v: Array) -> tuple[Array, Array]:
    """What a thing looks like at ``(u, v)``, ``v`` downwards, in units of its radius.

    Returns:
        The distance from its outline, negative inside; a pattern, true where the second of its two colours shows.
    """
    a, b = abs(u), abs(v)
    if name == 'ball':  # a disc with the seams of a basketball
        seams = np.minimum(np.minimum(a, b), abs(np.hypot(a - 1.2, v) - 0.75)) < 0.07
        return np.hypot(u, v) - 1, seams
    if name == 'kite':  # four chequered panels; the spars cross above the middle
        v = v + 0.3
        return 0.55 * (a / 0.68 + abs(v) / np.where(v < 0, 0.7, 1.3) - 1), u * v > 0
    distance = np.maximum(a - 0.72, b - 1)  # a window's frame of 2 x 3 panes
    return distance, (distance > -0.12) | (a < 0.06) | (abs(b - 0.33) < 0.06)


def draw_strip(
    rng: np.random.Generator, label: int, distances: Sequence[int], required: int
) -> tuple[Array, Array, dict]:
    """Draw a cue, the targets in its row, and three distractors.

    Nothing random depends on the label: it sets the colour of the cue and the label of the targets, nothing else.
    Things stay within their row of cells. The cue is smaller, so that the blur of the lens around it stays there, too.

    Args:
        rng: The random state.
        label: The label of all targets, 1 or 2.
        distances: Distances from the centre of the cue to the centres of the targets, in pixels.
        required: The distance at which there must be a target, positive to the right of the cue, negative to the left.

    Returns:
        The picture ``(48, 512, 3)``, uint8; the label of every pixel ``(48, 512)``, uint8, 0 outside of targets; and
        the entry of ``cues.json``: ``label``, ``cue``, ``[x, y]`` of its centre, and ``targets``, the x of theirs.
    """
    half = CELL // 2
    strip = Strip(rng)
    colours = [[random_colour(rng, typical), INK] for typical in CUE_COLOURS]
    cue = int(rng.integers(half + max(0, -required), WIDTH - half + 1 - max(0, required)))
    targets = [x for d in distances for x in (cue - d, cue + d) if half <= x <= WIDTH - half]
    rows = np.arange(half, HEIGHT, CELL) - 1  # of centres
    row = int(rng.choice(rows))
    placed = [(x, row) for x in (cue, *targets)]
    distractors: list[tuple[int, int]] = []
    while len(distractors) < 3:
        place = int(rng.integers(half, WIDTH - half + 1)), int(rng.choice(rows))
        if all(np.hypot(*np.subtract(place, other)) >= 1.5 * CELL for other in placed + distractors):
            distractors.append(place)
    looks = [colours[rng.integers(2)] for _ in distractors]
    for x in targets:
        strip.put('kite', x, row, half - 0.5, [PAPER, INK], label)
    for (x, y), look in zip(distractors, looks, strict=True):
        strip.put('windowpane', x, y, half - 0.5, look)
    strip.put('ball', cue, row, half - 3.5, colours[label - 1])
    return strip.photograph(), strip.labels, dict(label=label, cue=[cue, row], targets=targets)


def write_images(root: Path, splits: dict[str, int], seed: int, distances: Sequence[int]) -> dict[str, dict]:
    """Write pictures, labels and ``cues.json``, and return its content.

    Each picture is there twice, one after the other, with the cue in either colour: a model that does not see the cue
    is right in one of the two. The distances at which a target is required take turns, and so do the sides.
    """
    turns = [side * distance for distance in distances for side in (-1, 1)]
    cues = {}
    for number_of_split, (split, count) in enumerate(splits.items()):
        folder = {'train': 'training', 'val': 'validation'}[split]
        for kind in ('images', 'annotations'):
            (root / kind / folder).mkdir(parents=True)
        for number in range(count):
            pair, other = divmod(number, 2)
            rng = np.random.default_rng([seed, number_of_split, pair])
            stem = f'cue_{split}_{number + 1:08d}'
            picture, labels, cues[stem] = draw_strip(rng, 1 + other, distances, turns[pair % len(turns)])
            save(root / f'images/{folder}/{stem}.jpg', picture[..., ::-1], JPEG)  # OpenCV takes BGR
            save(root / f'annotations/{folder}/{stem}.png', labels)
    (root / 'cues.json').write_text(json.dumps(cues))
    return cues


def save(path: Path, image: Array, options: Sequence[int] = ()) -> None:
    """Write a picture in the format of its ending; a full disk is an error, where ``cv2.imwrite`` says nothing."""
    path.write_bytes(cv2.imencode(path.suffix, image, options)[1].tobytes())


def write_cues(out: Path, images: int, seed: int = 0, distances: Sequence[int] = DISTANCES) -> None:
    """Write the whole data set, or nothing; one that is there already is left as it is.

    Args:
        out: A folder that is empty or does not exist.
        images: Number of training images; a quarter of it, two at least, comes on top for validation.
        seed: Seed of the random state, 0 or more.
        distances: Distances from a cue to its targets, in pixels.

    Raises:
        UserError: If the folder holds something else or cannot be written, or if the distances do not fit in a strip.
    """
    distances, low, high = sorted({*distances}), 2 * CELL, WIDTH - 2 * CELL
    if not low <= distances[0] <= distances[-1] <= high or min(np.diff(distances), default=CELL) < CELL:
        given = ' '.join(map(str, distances))
        raise UserError(f'--distances must be from {low} to {high}, and {CELL} or more apart, not {given}')
    identity = dict(kind='cue', seed=seed, images=images, version=VERSION, distances=distances)
    out = out.resolve()
    part = out.with_name(f'.{out.name}.{os.getpid()}.part')
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            record = out / 'mini.json'
            if record.is_file() and record.read_text() == json.dumps(identity):
                print(f'{out} already holds this data set')
                return
            raise UserError(f'{out} holds something else: name another folder, or remove this one first')
        part.mkdir(parents=True)
        splits = dict(train=images, val=max(2, images // 4))
        cues = write_images(part, splits, seed, distances)
        (part / 'mini.json').write_text(json.dumps(identity))
        part.replace(out)
    except OSError as error:
        raise UserError(f'cannot write {out}: {error.strerror}') from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(f'{splits["train"]} training and {splits["val"]} validation images (seed {seed}) in {out}')
    total = sum(len(cue['targets']) for cue in cues.values())
    print(f'targets: {total}, {distances[0]} to {distances[-1]} pixels from their cue')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='a folder that is empty or does not exist')
    parser.add_argument(
        '--images', type=positive, default=480, help='for training (default: 480); a quarter comes on top'
    )
    parser.add_argument('--seed', type=int, default=0, help='0 or more (default: 0)')
    default = ' '.join(map(str, DISTANCES))
    parser.add_argument(
        '--distances', type=int, nargs='+', default=DISTANCES, help=f'from a cue, in pixels (default: {default})'
    )
    args = parser.parse_args()
    if args.seed < 0:
        raise UserError(f'--seed must be 0 or more, not {args.seed}')
    write_cues(args.out, args.images, args.seed, args.distances)


if __name__ == '__main__':
    run(main)
