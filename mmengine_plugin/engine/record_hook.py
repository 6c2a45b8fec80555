"""The record of a test: all by which its scores can be checked."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import Dataset

from backbones.errors import UserError
from backbones.weights import fetch

from ..atomic_files import make_folder, write_json
from ..provenance import environment, identity, identity_of_folder, short_path, training_of, without_secrets

# what a record must hold: types, patterns of strings, alternatives as tuples; ... is any name
NUMBER, SHA256, LOG = (int, float), re.compile('[0-9a-f]{64}'), re.compile(r'[^/]+/vis_data/scalars\.json')
CODE = dict(date=str, commit=(re.compile('[0-9a-f]{40,64}'), None), dirty=(bool, None))
RECORD = dict(
    scores={...: NUMBER},
    tta=bool,
    images=int,
    annotations=(dict(file=str, sha256=SHA256), None),
    config=dict(path=str, text=str),
    params=int,
    checkpoint=dict(file=str, sha256=SHA256, url=(str, None)),
    training=dict(
        epochs=(int, None),
        iterations=(int, None),
        hours=(*NUMBER, None),
        starts=[CODE | dict(iteration=int, config=str, devices={...: int}, log=LOG)],
        logs=[dict(path=LOG, sha256=SHA256)],
    ),
    test=CODE,
)


class RecordHook(Hook):
    """Collects the record of a test and writes it.

    Args:
        cfg: The config as it is tested; its text is taken at once.
        path: The file to write, or a folder for ``record.json``; ``None`` takes ``<work dir>/<timestamp>``.
        tta: Whether test-time augmentation is used.

    Raises:
        UserError: If files cannot be written there.
    """

    def __init__(self, cfg: Config, path: str | None, tta: bool) -> None:
        self.config = dict(path=short_path(str(cfg.filename)), text=without_secrets(cfg.pretty_text))
        self.path = path and Path(path, '' if path.endswith('.json') else 'record.json')
        self.tta = tta
        self.meta: Mapping = {}
        if self.path and is_main_process():
            make_folder(self.path.parent)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember what the checkpoint says of its training."""
        self.meta = checkpoint.get('meta') or {}

    def before_test(self, runner: Runner) -> None:
        """Note where the test runs, and its beginning."""
        self.test = environment()
        self.begin = time.monotonic()

    def after_test_epoch(self, runner: Runner, metrics: Mapping[str, float] | None = None) -> None:
        """Note how long the images and their scores took, in seconds."""
        self.test['seconds'] = round(time.monotonic() - self.begin, 1)

    def write(self, runner: Runner, scores: Mapping[str, float]) -> Path:
        """Write the record, in the main process.

        Returns:
            Its path.

        Raises:
            UserError: If it cannot be written.
        """
        checkpoint, dataset = fetch(runner.cfg.load_from), runner.test_dataloader.dataset
        path = self.path or Path(runner.log_dir, 'record.json')
        record = dict(
            scores=scores,
            tta=self.tta,
            images=len(dataset),
            annotations=annotations(dataset),
            config=self.config,
            params=sum(parameter.numel() for parameter in runner.model.parameters()),
            checkpoint=identity(checkpoint) | dict(url=None),
            training=training_of(self.meta, checkpoint.parent),
            test=self.test,
        )
        write_json(path, record)
        return path


def annotations(dataset: Dataset) -> dict[str, object] | None:
    """The annotation file of a data set, or its folder of label maps; ``None`` if it has neither."""
    if Path(file := getattr(dataset, 'ann_file', None) or '').is_file():
        return identity(Path(file))
    folder = (getattr(dataset, 'data_prefix', None) or {}).get('seg_map_path') or ''
    return identity_of_folder(Path(folder)) if folder and Path(folder).is_dir() else None


def read_record(path: Path) -> dict:
    """Read a record.

    Raises:
        UserError: If the file is none.
    """
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f'{path} is no record: {error}') from error
    if key := malformed(record, RECORD):
        raise UserError(f'{path} is no record of tools/test.py: it lacks {key}, or that has another form')
    return record


def malformed(value: object, form: object, key: str = '') -> str | None:
    """The first dotted key of a value that is not of a form (see ``RECORD``), or ``None`` if all are."""
    if isinstance(form, tuple):
        found = [malformed(value, alternative, key) for alternative in form]
        return None if None in found else next((name for name in found if name != key), key)
    if isinstance(form, dict | list) and isinstance(value, type(form)):
        parts = form.items() if isinstance(form, dict) else [(..., form[0])]
        values = value if isinstance(value, dict) else dict(enumerate(value))
        named = [(name, part) for key, part in parts for name in (values if key is ... else [key])]
        found = (malformed(values.get(name, ...), part, f'{key}.{name}'.lstrip('.')) for name, part in named)
        return next((name for name in found if name), None)
    if isinstance(form, re.Pattern):
        good = isinstance(value, str) and form.fullmatch(value)
    else:
        good = value is form or isinstance(form, type) and isinstance(value, form)
    return None if good else key or 'all'
