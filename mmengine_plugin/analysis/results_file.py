"""The predictions that ``tools/test.py --out`` writes, read without running any code from the file."""

from __future__ import annotations

import io
import json
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from backbones.errors import UserError
from backbones.safe_checkpoint import STAND_INS


def _storage(data: bytes) -> torch.UntypedStorage:
    return torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)


def _tensor(storage: torch.UntypedStorage, offset: int, size: Sequence[int], stride: Sequence[int], *_) -> Tensor:
    return torch.empty(0, dtype=storage.dtype).set_(storage, offset, size, stride)


def _bytes(text: str, encoding: str) -> bytes:
    if encoding != 'latin1':  # the only one that pickle uses for bytes
        raise pickle.UnpicklingError(f'_codecs.encode to {encoding}')
    return text.encode('latin1')


# what a file of results may name, and what is called instead; the originals would read tensors with pickle
KNOWN = {
    'collections.OrderedDict': OrderedDict,
    '_codecs.encode': _bytes,
    'torch.storage._load_from_bytes': _storage,
    'torch._utils._rebuild_tensor_v2': _tensor,
    **{name: stand_in for stand_in, name in STAND_INS},  # numpy's arrays and numbers, such as scale_factor
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        """Look up a name of the file in :data:`KNOWN` alone."""
        if f'{module}.{name}' not in KNOWN:
            raise _Refused(f'{module}.{name}')
        return KNOWN[f'{module}.{name}']


class _Refused(Exception):
    """A name that a file of results has no reason to hold."""


def read_results(path: str | Path) -> list[dict]:
    """Read predictions. No code in the file runs.

    Args:
        path: The ``.pkl`` file of ``tools/test.py --out``, or a ``.json`` file in COCO's results format.

    Returns:
        One dict for each image from a ``.pkl`` file, and one for each detection from a ``.json`` file.

    Raises:
        UserError: If the file is missing, damaged, empty, or not one of the two, or if it would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f'results {path} are not there (seen from {Path.cwd()}): tools/test.py CONFIG CHECKPOINT --out {path} '
            'writes them'
        )
    try:
        if path.suffix == '.json':
            content = json.loads(path.read_bytes())
        else:
            with path.open('rb') as file:
                content = _Unpickler(file).load()
    except _Refused as error:
        raise UserError(
            f'results {path} were refused: the file would call {error}, which no file of tools/test.py --out does; '
            'its code did not run'
        ) from error
    except OSError as error:
        raise UserError(f'results {path} cannot be read: {error.strerror or error}') from error
    except Exception as error:  # a damaged file may raise anything
        raise UserError(
            f'results {path} ({path.stat().st_size:,} bytes) are damaged or not results: give the .pkl file that '
            "tools/test.py --out writes, or detections in COCO's results format as .json"
        ) from error
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise UserError(
            f'results {path} are not a list of predictions: give the .pkl file that tools/test.py --out writes, or '
            "detections in COCO's results format as .json"
        )
    if not content:
        raise UserError(f'results {path} are empty: they hold no image and no detection')
    return content
