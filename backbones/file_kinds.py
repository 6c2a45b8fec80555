"""Files that users take for checkpoints, recognised by their first bytes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

HEAD = 512  # bytes that are read
TORCH_LEGACY = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # the pickled number before a file of PyTorch below 1.6


def is_safetensors(path: Path) -> bool:
    """Whether a file has the format of safetensors, under whatever name: the size of its header, then the header."""
    with path.open('rb') as file:
        size, brace = int.from_bytes(file.read(8), 'little'), file.read(2)
    return brace == b'{"' and 2 <= size <= path.stat().st_size


def foreign_kind(path: Path) -> str | None:
    """Say what a file is that is no checkpoint of PyTorch, and what to do with it.

    Args:
        path: The file.

    Returns:
        Words that follow "is", such as ``'a Git LFS pointer: run git lfs pull'``; ``None`` if the file may be a
        checkpoint, or if its kind is not known.
    """
    with path.open('rb') as file:
        head = file.read(HEAD)
    text = head.decode('utf-8', 'replace').lstrip().lower()
    if text.startswith('version https://git-lfs'):
        return 'a Git LFS pointer in place of the weights: run git lfs pull in its folder'
    if text.startswith(('<!doctype', '<html', '<?xml')):
        return 'a web page: download the file itself (on a hub or GitHub, /resolve/ or /raw/ in place of /blob/)'
    if head.startswith(b'\x89HDF\r\n'):
        return 'an HDF5 file, as Keras writes it: only weights of PyTorch are read'
    if path.suffix == '.onnx' or (head[:1] == b'\x08' and head[2:3] == b'\x12'):
        return 'an ONNX file: take the checkpoint from which it was exported'
    if zipfile.is_zipfile(path):
        return _kind_of_archive(path)
    if head.startswith((b'\x80\x02', b'\x80\x03', b'\x80\x04', b'\x80\x05')) and not head.startswith(TORCH_LEGACY):
        return (
            "a pickle that torch.save did not write, such as one of Detectron2's model zoo: if you trust it, read it "
            "and save its arrays by torch.save(dict(state_dict={name: torch.as_tensor(array), ...}), 'weights.pth')"
        )
    if text.startswith('{'):
        return _kind_of_json(path)
    return _kind_of_text(path, head)


def _kind_of_archive(path: Path) -> str | None:
    """Say what a zip archive is that is no checkpoint."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith('/constants.pkl') or '/code/' in name for name in names):
        return (
            'a TorchScript archive, a program with weights: save them by '
            "torch.save(torch.jit.load('...').state_dict(), 'weights.pth'), if you trust it"
        )
    if not any(name.endswith('/data.pkl') for name in names):
        return 'a zip archive without weights of PyTorch: unpack it, and name the checkpoint in it'
    return None


def _kind_of_json(path: Path) -> str:
    """Say what a JSON file is."""
    try:
        parts = sorted(set(json.loads(path.read_text())['weight_map'].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        return 'a JSON file: name the weights instead'
    return f'an index of weights in {len(parts)} files ({parts[0]}, ...): join them into one file'


def _kind_of_text(path: Path, head: bytes) -> str | None:
    """Say what a file is whose text is the path of another one, as mmengine writes ``last_checkpoint``."""
    if len(head) == HEAD or not head.isascii():
        return None
    target = head.decode().strip()
    if target.endswith(('.pth', '.pt', '.safetensors')) and '\n' not in target:
        return f'a text file with the path of the checkpoint: name {target}'
    return None


def describe_folder(path: Path) -> str:
    """Say which checkpoint in a folder could be meant: the newest one."""
    checkpoints = [file for file in path.iterdir() if file.suffix in ('.pth', '.pt', '.safetensors') and file.is_file()]
    if not checkpoints:
        return f'checkpoint {path} is a folder without .pth, .pt and .safetensors files'
    newest = max(checkpoints, key=lambda file: file.stat().st_mtime)
    return f'checkpoint {path} is a folder: name a file in it (did you mean {str(newest)!r}?)'
