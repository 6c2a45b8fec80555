"""Result files are read as data: what would run code is refused, and what is no result is described."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.fileio import dump

from backbones.errors import UserError
from mmengine_plugin.analysis.results_file import read_results


class Touch:
    """A pickle of it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize('protocol', [2, 5])
def test_results_come_back_as_they_were_written(tmp_path, protocol):
    boxes = torch.arange(24, dtype=torch.float32).reshape(6, 4)
    sample = dict(img_id='a', ori_shape=(3, 4), boxes=boxes[::2, 1:], labels=torch.tensor([1, 2]), counts=b'\xff0')
    with (tmp_path / 'r.pkl').open('wb') as file:
        pickle.dump([sample], file, protocol)
    (read,) = read_results(tmp_path / 'r.pkl')
    assert read['boxes'].dtype == torch.float32 and torch.equal(read['boxes'], sample['boxes'])
    assert torch.equal(read['labels'], sample['labels'])
    assert [read[key] for key in ('img_id', 'ori_shape', 'counts')] == ['a', (3, 4), b'\xff0']


def test_an_array_of_numpy_is_no_obstacle(tmp_path):
    dump([dict(img_id=1, scale_factor=np.ones(4, np.float32))], tmp_path / 'r.pkl')
    assert read_results(tmp_path / 'r.pkl')[0]['img_id'] == 1


def test_code_in_a_file_is_named_and_does_not_run(tmp_path):
    mark = tmp_path / 'ran'
    dump([dict(img_id=1, extra=Touch(mark))], tmp_path / 'r.pkl')
    with pytest.raises(UserError, match='were refused: the file would call .*; its code did not run'):
        read_results(tmp_path / 'r.pkl')
    assert not mark.exists()
    pickle.loads((tmp_path / 'r.pkl').read_bytes())
    assert mark.exists()  # so the file was able to do it


def test_code_in_a_tensor_does_not_run(tmp_path):
    """pickle reads the storage of a tensor by torch.load, which may run code, too."""
    mark, inner = tmp_path / 'ran', tmp_path / 'inner.pth'
    torch.save(Touch(mark), inner, _use_new_zipfile_serialization=False)
    content = inner.read_bytes()
    length = len(content).to_bytes(4, 'little')
    (tmp_path / 'r.pkl').write_bytes(b'\x80\x03]ctorch.storage\n_load_from_bytes\nB' + length + content + b'\x85Ra.')
    with pytest.raises(UserError, match='are damaged or not results'):
        read_results(tmp_path / 'r.pkl')
    assert not mark.exists()
    pickle.loads((tmp_path / 'r.pkl').read_bytes())
    assert mark.exists()


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('r.pkl', b'PK\x03\x04', 'are damaged or not results: give the .pkl file that'),
        ('r.pkl', pickle.dumps([dict(a=1)])[:-4], 'are damaged or not results'),
        ('r.json', b'{"a": ', 'are damaged or not results'),
        ('r.json', json.dumps(dict(images=[])).encode(), 'are not a list of predictions'),
        ('r.pkl', pickle.dumps(dict(state_dict={})), 'are not a list of predictions'),
        ('r.pkl', pickle.dumps([]), 'are empty: they hold no image and no detection'),
    ],
)
def test_what_is_no_result_is_answered_with_what_to_give(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_results(tmp_path / name)


def test_a_missing_file_is_answered_with_the_command_that_writes_it(tmp_path):
    with pytest.raises(UserError, match=r'are not there .*: tools/test.py CONFIG CHECKPOINT --out .*r.pkl writes them'):
        read_results(tmp_path / 'r.pkl')
