"""Checkpoints that survive a kill at any moment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from backbones.errors import UserError, did_you_mean

from ..atomic_files import AtomicFileBackend
from ..compat.private_names import StepCheckpointHook, accumulated_steps
from .accumulated_gradients import average_gradients
from .checkpoint_files import INTERRUPTED, note_last_checkpoint
from .sharding import whole_states


@HOOKS.register_module()
class SafeCheckpointHook(StepCheckpointHook):
    """mmengine's CheckpointHook, but at every moment a good checkpoint is on the disk.

    An old checkpoint is removed only when the new one is on the disk and was read back. To switch this off, set
    ``default_hooks.checkpoint.type=CheckpointHook``.

    Args:
        *args: Arguments of mmengine's CheckpointHook.
        **kwargs: Arguments of mmengine's CheckpointHook.
    """

    last_step: tuple[int, int] | None = None  # number and iteration of the last checkpoint
    is_in_validation = False

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **{'backend_args': dict(backend='atomic')} | kwargs)

    def before_train(self, runner: Runner) -> None:
        """Restore what a resumed run knew of its checkpoints, and remove files that a kill left incomplete."""
        super().before_train(runner)
        self.file_backend = DeferredRemovalBackend()
        if best := getattr(self, 'best_ckpt_path', None):
            self.best_ckpt_path = os.path.join(self.out_dir, os.path.basename(best))  # the folder may have been moved
        for score, best in getattr(self, 'best_ckpt_path_dict', {}).items():
            self.best_ckpt_path_dict[score] = best and os.path.join(self.out_dir, os.path.basename(best))
        if step := runner.message_hub.runtime_info.get('last_step'):
            self.last_step, self.last_ckpt = tuple(step), os.path.join(self.out_dir, self.filename_tmpl.format(step[0]))
        if is_main_process():
            for path in Path(self.out_dir).glob('.*.part.*'):
                path.unlink()

    def after_val_epoch(self, runner: Runner, metrics: Mapping) -> None:
        """Save the best checkpoint.

        Raises:
            UserError: If the metrics do not give the score by which the best one is chosen.
        """
        for name in self.save_best or ():
            if name != 'auto' and metrics and name not in metrics:
                raise UserError(
                    f'default_hooks.checkpoint.save_best={name!r} is not among the scores of this validation'
                    f'{did_you_mean(name, metrics)}: {", ".join(metrics)}. The last checkpoint is saved; --resume goes '
                    'on from it'
                )
        self.is_in_validation = True
        super().after_val_epoch(runner, metrics)
        self.is_in_validation = False

    def after_val(self, runner: Runner) -> None:
        """Record in the last checkpoint that it was validated, with its scores and the state of all hooks."""
        runner.message_hub.update_info('last_validation', runner.iter)
        if self.last_step and self.last_step[1] == runner.iter:
            self.save_step(runner, self.last_step[0], dict(epoch=runner.epoch, iter=runner.iter))

    def save_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Save in a safe order: write the checkpoint, record it as the last one, remove an old one."""
        self.last_step = step, meta['iter']
        if self.is_in_validation:
            return  # mmengine has saved the best one and asks for this one; it waits for after_val
        if self.max_keep_ckpts > 0 and (not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step):
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                self.file_backend.remove(Path(self.out_dir, self.filename_tmpl.format(self.keep_ckpt_ids.popleft())))
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        runner.message_hub.update_info('last_step', list(self.last_step))
        if meta['iter'] % accumulated_steps(runner.optim_wrapper):
            average_gradients(runner)
        filename = self.filename_tmpl.format(step)
        self.last_ckpt = os.path.join(self.out_dir, filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        with whole_states(runner):
            runner.save_checkpoint(
                self.out_dir,
                filename,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
        if is_main_process():  # the only process that writes
            note_last_checkpoint(runner.work_dir, self.last_ckpt)
            self.file_backend.remove(Path(runner.work_dir, INTERRUPTED))
            self.file_backend.remove_now()

    def save_best_of(self, runner: Runner, metrics: Mapping) -> None:
        """Save the checkpoint if its scores are the best so far, and only then remove the one that was the best."""
        with whole_states(runner):
            super().save_best_of(runner, metrics)
        if is_main_process():
            self.file_backend.remove_now()


class DeferredRemovalBackend(AtomicFileBackend):
    """A file backend that removes nothing before :meth:`remove_now`.

    mmengine removes an old checkpoint before it writes the new one.
    """

    def __init__(self) -> None:
        self.outdated: list[Path] = []

    def remove(self, filepath: str | Path) -> None:
        """Remember a file that is to be removed."""
        self.outdated.append(Path(filepath))

    def remove_now(self) -> None:
        """Remove the remembered files."""
        while self.outdated:
            self.outdated.pop().unlink(missing_ok=True)
