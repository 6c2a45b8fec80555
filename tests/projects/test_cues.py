"""The strips of the long-range probe: the same bytes again, targets where they should be, and one cue alone."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from backbones import UserError
from projects.long_range_probe import cues
from tests.conftest import ROOT

IMAGES = 12  # for training; 3 more for validation


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('probe') / 'cue'
    cues.write_cues(out, IMAGES)
    return out


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


def test_a_seed_gives_the_same_bytes_in_another_process(root, tool, tmp_path):
    done = tool(ROOT / 'projects/long_range_probe/cues.py', 'again', '--images', IMAGES, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith('12 training and 3 validation images'), done.stdout
    assert tree(tmp_path / 'again') == tree(root)


def test_another_seed_and_the_other_split_give_other_pictures(root, tmp_path):
    cues.write_cues(tmp_path / 'other', 4, seed=1)
    pictures = [path.read_bytes() for folder in (root, tmp_path / 'other') for path in folder.rglob('*.jpg')]
    assert len({*pictures}) == IMAGES + 3 + 4 + 2


def test_more_images_leave_the_earlier_ones_as_they_are(root, tmp_path):
    cues.write_cues(tmp_path / 'fewer', 5)
    more, fewer = tree(root), tree(tmp_path / 'fewer')
    pictures = [name for name in fewer if name.endswith(('.jpg', '.png'))]
    assert len(pictures) == (5 + 2) * 2
    assert all(fewer[name] == more[name] for name in pictures)


def test_targets_lie_at_the_distances_that_are_asked_for(root):
    seen = set()
    for stem, truth in json.loads((root / 'cues.json').read_text()).items():
        labels = cv2.imread(str(next(root.glob(f'annotations/*/{stem}.png'))), cv2.IMREAD_UNCHANGED)
        x, y = truth['cue']
        assert labels.shape == (48, 512) and labels[y, x] == 0
        assert [labels[y, target] for target in truth['targets']] == [truth['label']] * len(truth['targets'])
        assert np.unique(labels).tolist() == [0, truth['label']]
        distances = [target - x for target in truth['targets']]
        room = [side * d for d in cues.DISTANCES for side in (-1, 1) if 8 <= x + side * d <= labels.shape[1] - 8]
        assert sorted(distances) == sorted(room)
        seen |= {abs(d) for d in distances}
    assert set(cues.DISTANCES[: IMAGES // 4]) <= seen  # two sides, and two colours, of each


def test_a_picture_has_targets_at_the_farthest_distance_too(tmp_path):
    cues.write_cues(tmp_path / 'out', 4, distances=[448])
    for truth in json.loads((tmp_path / 'out/cues.json').read_text()).values():
        assert [abs(target - truth['cue'][0]) for target in truth['targets']] == [448]


def test_nothing_but_the_cues_colour_tells_the_label(root):
    """So a model that does not see the cue, or its row of cells up to where it stands, is right in one of two."""
    truths = json.loads((root / 'cues.json').read_text())
    for number in range(1, IMAGES, 2):
        pair = [f'cue_train_{number + other:08d}' for other in (0, 1)]
        one, two = (cv2.imread(str(root / f'images/training/{stem}.jpg')).astype(int) for stem in pair)
        first, second = (cv2.imread(str(root / f'annotations/training/{stem}.png'), -1) for stem in pair)
        assert (second == 2 * first).all() and first.max() == 1
        (x, y), near = truths[pair[0]]['cue'], cues.CELL  # half a cue, and the blocks of JPEG that it touches
        different = abs(one - two).max(-1)
        assert different[y - 4 : y + 5, x - 4 : x + 5].max() > 50
        top = y // cues.CELL * cues.CELL
        different[top : top + cues.CELL, max(0, x - near) : x + near] = 0
        assert different.max() == 0


@pytest.mark.parametrize(
    ('distances', 'message'),
    [([8], 'must be from 32 to 480, and 16 or more apart, not 8'), ([64, 72], 'not 64 72')],
)
def test_distances_that_do_not_fit_are_refused(distances, message, tmp_path):
    with pytest.raises(UserError, match=message):
        cues.write_cues(tmp_path / 'out', 4, distances=distances)


def test_the_same_data_set_is_left_as_it_is(root, capsys):
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    cues.write_cues(root, IMAGES)
    assert 'already' in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == before


def test_a_folder_with_anything_else_is_refused_and_left_as_it_is(root, tmp_path):
    (tmp_path / 'thesis.tex').write_text('years of work')
    for out in (root, tmp_path, tmp_path / 'thesis.tex'):
        with pytest.raises(UserError, match='name another folder'):
            cues.write_cues(out, IMAGES + 1)
    assert tree(tmp_path) == {'thesis.tex': b'years of work'}


def test_a_run_that_fails_leaves_nothing(monkeypatch, tmp_path):
    save = cues.save

    def full_disk(path: Path, *rest) -> None:
        if '00003' in path.name:
            raise OSError(28, 'No space left on device')
        save(path, *rest)

    monkeypatch.setattr(cues, 'save', full_disk)
    with pytest.raises(UserError, match='No space left on device'):
        cues.write_cues(tmp_path / 'out', 4)
    assert not list(tmp_path.iterdir())
