"""The record of a test: all by which its scores can be checked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import Dataset

from backbones.weights import fetch

from ..atomic_files import make_folder, write_json
from ..provenance import environment, identity, identity_of_folder, short_path, training_of, without_secrets


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
