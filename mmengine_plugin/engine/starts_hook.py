"""What each start of a training depended on, written into its checkpoints and beside them."""

from __future__ import annotations

import time
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from backbones.errors import UserError

from ..atomic_files import write_json
from ..compat.private_names import is_resuming
from ..provenance import environment, without_secrets


class StartsHook(Hook):
    """Writes the history of a run: one entry for each start that led to a checkpoint.

    A checkpoint has the history in ``meta['starts']``. The entry of a start is also in
    ``<work dir>/<timestamp>/environment.json``. An entry is what
    :func:`~mmengine_plugin.provenance.environment` returns and ``iteration``, the one at which the start began;
    ``seed``; ``config``, the text of all settings; ``log``, the path of the training log below the work directory; and,
    in a checkpoint, ``seconds``, the time from the first step to the checkpoint with all validations.
    """

    def __init__(self) -> None:
        self.starts: list[dict[str, object]] = []

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take over the history of the run that is resumed."""
        if is_resuming(runner):
            self.starts = list(checkpoint['meta'].get('starts') or [])

    def before_train(self, runner: Runner) -> None:
        """Begin an entry."""
        self.begin = time.monotonic()
        start = environment() | dict(
            iteration=runner.iter,
            seed=runner.seed,
            config=without_secrets(runner.cfg.pretty_text),
            log=f'{Path(runner.log_dir).name}/vis_data/scalars.json',
        )
        self.starts.append(start)
        if is_main_process():
            try:
                write_json(Path(runner.log_dir, 'environment.json'), start)
            except UserError as error:  # it is no reason to lose a run
                runner.logger.warning(str(error))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the history to a checkpoint."""
        self.starts[-1]['seconds'] = round(time.monotonic() - self.begin, 1)
        checkpoint['meta']['starts'] = self.starts
