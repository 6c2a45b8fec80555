"""A file that is no checkpoint is refused by the name of its kind; a checkpoint is read under any name."""

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from backbones import UserError
from backbones.safe_checkpoint import read_checkpoint
from backbones.weights import fetch

WEIGHTS = {'stem.weight': torch.arange(6.0).reshape(2, 3)}


def write_onnx(path: Path) -> None:
    path.write_bytes(b'\x08\x07\x12\x07pytorch\x1a\x052.1.0' + bytes(200))


def write_hdf5(path: Path) -> None:
    path.write_bytes(b'\x89HDF\r\n\x1a\n' + bytes(200))


def write_detectron2(path: Path) -> None:
    path.write_bytes(pickle.dumps(dict(model={'stem.weight': np.ones(3)}, __author__='Detectron2')))


def write_torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))


def write_archive(path: Path) -> None:
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('weights/epoch_1.pth', b'x')


def write_index(path: Path) -> None:
    parts = {'a': 'model-1.safetensors', 'b': 'model-2.safetensors'}
    path.write_text(json.dumps(dict(metadata={}, weight_map=parts)))


KINDS = {
    'model.onnx': (write_onnx, 'is an ONNX file'),
    'onnx_by_content.pth': (write_onnx, 'is an ONNX file'),
    'model.h5': (write_hdf5, 'is an HDF5 file, as Keras writes it'),
    'model.pkl': (write_detectron2, 'is a pickle that torch.save did not write, such as one of Detectron2'),
    'script.pt': (write_torchscript, 'is a TorchScript archive'),
    'all.zip': (write_archive, 'is a zip archive without weights of PyTorch: unpack it'),
    'model.safetensors.index.json': (write_index, r'is an index of weights in 2 files \(model-1.safetensors'),
    'lfs.pth': (
        lambda path: path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n'),
        'is a Git LFS pointer in place of the weights: run git lfs pull',
    ),
    'page.pth': (lambda path: path.write_text('\n<!DOCTYPE html><html></html>'), 'is a web page: download the file'),
    'last_checkpoint': (lambda path: path.write_text('w/iter_4.pth'), 'the path of the checkpoint: name w/iter_4.pth'),
}


@pytest.mark.parametrize('name', KINDS)
def test_another_kind_of_file_is_named(name, tmp_path):
    write, message = KINDS[name]
    write(tmp_path / name)
    with pytest.raises(UserError, match=message) as refusal:
        read_checkpoint(tmp_path / name)
    assert 'copy or download it again' not in str(refusal.value)


def test_a_damaged_checkpoint_is_still_called_damaged(tmp_path):
    torch.save(WEIGHTS, tmp_path / 'whole.pth')
    (tmp_path / 'cut.pth').write_bytes((tmp_path / 'whole.pth').read_bytes()[:300])
    with pytest.raises(UserError, match='300 bytes. is damaged, cut off or not a checkpoint'):
        read_checkpoint(tmp_path / 'cut.pth')


@pytest.mark.parametrize('name', ['weights.pth', 'weights.safetensors', 'weights'])
@pytest.mark.parametrize('save', [torch.save, safetensors.torch.save_file])
def test_the_content_tells_the_format(name, save, tmp_path):
    save(WEIGHTS, tmp_path / name)
    assert torch.equal(read_checkpoint(tmp_path / name)['stem.weight'], WEIGHTS['stem.weight'])


def test_a_file_of_an_old_pytorch_is_read(tmp_path):
    torch.save(WEIGHTS, tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    assert torch.equal(read_checkpoint(tmp_path / 'old.pth')['stem.weight'], WEIGHTS['stem.weight'])


def test_a_folder_is_answered_with_its_newest_checkpoint(tmp_path):
    with pytest.raises(UserError, match='is a folder without .pth'):
        read_checkpoint(fetch(str(tmp_path)))
    torch.save(WEIGHTS, tmp_path / 'iter_8.pth')
    with pytest.raises(UserError, match='is a folder: name a file in it .did you mean .*/iter_8.pth'):
        read_checkpoint(fetch(str(tmp_path)))
    safetensors.torch.save_file(WEIGHTS, tmp_path / 'model.safetensors')
    assert read_checkpoint(fetch(str(tmp_path))).keys() == WEIGHTS.keys()
