"""The resume policy: which checkpoint a run continues from, what may have changed, and what is done again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmengine.dist import all_reduce, broadcast, broadcast_object_list, is_main_process
from mmengine.hooks import EarlyStoppingHook, EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor

from backbones.errors import UserError

from ..compat.private_names import (
    batch_sizes_in_pixels,
    checkpoint_of,
    decide_val_interval,
    is_resuming,
    set_batch_sizes_in_pixels,
    set_checkpoint,
    training_loop,
)
from .accumulated_gradients import get_gradients, loss_scales, set_gradients
from .changed_settings import DATA_DIVISION, apply_to_optimizers, compare, conditions
from .checkpoint_files import checkpoint_place, last_checkpoint, note_last_checkpoint
from .loops import ResumableLoop
from .sharding import EndWholeModelHook
from .strict_load_hook import StrictLoadHook


@HOOKS.register_module()
class ResumeHook(Hook):
    """Resumes from the newest good checkpoint, applies changed settings, and repeats a validation that was cut off.

    Args:
        load_from: The checkpoint with whose weights a run begins that is to be resumed and has no checkpoint yet.
    """

    priority = 'LOWEST'

    def __init__(self, load_from: str | None = None) -> None:
        self.load_from = load_from
        self.gradients: Mapping[str, Tensor] = {}  # of a step that was not complete in the checkpoint
        self.loss_scales: Sequence[float] = ()  # by which these are multiplied

    def before_run(self, runner: Runner) -> None:
        """Find the checkpoint if none is named; one process does it for all.

        Raises:
            UserError: If there are checkpoints, and all are damaged.
        """
        if is_resuming(runner) and checkpoint_of(runner) is None:
            found = [None]
            if is_main_process():
                try:
                    found = [last_checkpoint(runner.work_dir, **checkpoint_place(runner.cfg))]
                except UserError as error:
                    found = [error]
            broadcast_object_list(found)
            if isinstance(found[0], UserError):
                raise found[0]
            if found[0] is None:
                runner.logger.warning(f'{runner.work_dir} has no checkpoint, so that the run begins at its beginning')
            set_checkpoint(runner, found[0] or self.load_from, resume=found[0] is not None)
        if checkpoint_of(runner) is not None:
            self._skip_pretrained(runner)

    def _skip_pretrained(self, runner: Runner) -> None:
        """Leave out pretrained weights that the checkpoint will replace: they might have to be downloaded."""
        strict = [hook for hook in runner.hooks if isinstance(hook, StrictLoadHook) and hook.strict]
        if not strict:
            return  # the checkpoint may lack some
        kept = () if is_resuming(runner) else strict[0].reinitialise
        for name, module in runner.model.named_modules():
            name = f'{name.removeprefix("module.")}.'
            pretrained = 'Pretrained' in str(getattr(module, 'init_cfg', None))
            if pretrained and not any(name.startswith(start) or start.startswith(name) for start in kept):
                module.init_cfg = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the gradients of a step that is not complete, the state of other hooks, and the conditions of the run."""
        if not isinstance(runner.train_loop, ResumableLoop):
            return
        checkpoint['meta']['run'] = conditions(runner)
        checkpoint['meta']['early_stopping'] = [
            {name: getattr(hook, name) for name in ('wait_count', 'best_score', 'patience')}
            for hook in _early_stopping(runner)
        ]
        checkpoint['meta']['stop_training'] = runner.train_loop.stop_training
        checkpoint['meta']['batch_sizes_in_pixels'] = batch_sizes_in_pixels(runner.model)
        if 'optimizer' in checkpoint:
            checkpoint['gradients'] = get_gradients(runner)
            checkpoint['meta']['loss_scales'] = loss_scales(runner)
        schedules = checkpoint.get('param_schedulers', [])
        for states in schedules.values() if isinstance(schedules, dict) else [schedules]:
            for state in states:
                for name in [name for name, value in state.items() if callable(value)]:
                    del state[name]  # a function, as in OneCycleLR, is code, which is not read from checkpoints

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Restore what :meth:`before_save_checkpoint` has added, and compare the conditions.

        Raises:
            UserError: If the run cannot be continued under the new conditions.
        """
        if not is_resuming(runner):
            return
        meta = checkpoint.get('meta', {})
        if 'ema_state_dict' in checkpoint and not any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise UserError(
                'the checkpoint holds trained weights and their average, and this run has no EMAHook: add the EMAHook '
                'that the run had, or begin a new run from the average by load_from'
            )
        self.gradients, self.loss_scales = checkpoint.get('gradients', {}), meta.get('loss_scales', ())
        if before := meta.get('run'):
            epoch, start = checkpoint['message_hub']['runtime_info'].get('epoch_start', (None, 0))
            if epoch != meta['epoch']:
                start = meta['iter']  # the checkpoint was saved at the end of an epoch
            changed = compare(before, conditions(runner), meta['iter'] > start, runner.logger)
            if changed & DATA_DIVISION and isinstance(runner.train_loop, EpochBasedTrainLoop):
                # epochs have another length now; gradients of the earlier batches do not belong to a step of these
                start = meta['iter'] = meta['epoch'] * len(runner.train_dataloader)
                self.gradients = {}
            apply_to_optimizers(runner, checkpoint, changed, start)
        self._restore_early_stopping(runner, meta)
        if 'batch_sizes_in_pixels' in meta:
            set_batch_sizes_in_pixels(runner.model, meta['batch_sizes_in_pixels'])

    def _restore_early_stopping(self, runner: Runner, meta: Mapping) -> None:
        """Let early stopping count on; a run that it has stopped trains on only if it is more patient now."""
        more_patient = False
        for hook, state in zip(_early_stopping(runner), meta.get('early_stopping', []), strict=False):
            more_patient |= hook.patience > state['patience']
            hook.wait_count, hook.best_score = state['wait_count'], state['best_score']
        if meta.get('stop_training') and not more_patient:
            runner.train_loop.stop_training = True
            runner.logger.warning(
                'EarlyStoppingHook has stopped this run, so that it does not train on. To train on, set a higher '
                'patience'
            )

    def before_train(self, runner: Runner) -> None:
        """If the checkpoint was saved before a validation that was then cut off, run this validation first."""
        loop = runner.train_loop
        if not isinstance(loop, ResumableLoop):
            return
        if self.gradients:
            set_gradients(runner, self.gradients, self.loss_scales)
            runner.logger.info('The gradients of the step that was not complete are restored from the checkpoint')
            self.gradients = {}
        if is_resuming(runner) and is_main_process():
            # checkpoints that are newer than this one belong to an abandoned run
            note_last_checkpoint(runner.work_dir, checkpoint_of(runner))
        decide_val_interval(loop)
        if runner.val_loop is not None and loop.is_validation_due() and self._was_validation_cut_off(runner):
            runner.logger.info('The validation before this point was cut off and runs now')
            runner.val_loop.run()

    def _was_validation_cut_off(self, runner: Runner) -> bool:
        """Whether a validation was due in the checkpoint and not completed.

        A run that exits by a signal knows it, and so does SafeCheckpointHook, which saves again after a validation;
        mmengine's CheckpointHook does not.
        """
        info = runner.message_hub.runtime_info
        saved_at = info.get('last_step', (None, None))[1]  # by SafeCheckpointHook
        unvalidated = saved_at == runner.iter and info.get('last_validation') != runner.iter
        return info.get('interrupted') == runner.iter or unvalidated

    def before_val_epoch(self, runner: Runner) -> None:
        """Make all processes score one model: their BatchNorm statistics differ, and only one process's are saved."""
        for buffer in runner.model.buffers():
            broadcast(buffer)
        batches = torch.tensor(len(runner.val_dataloader))
        all_reduce(batches, 'min')
        self.batches = batches.item()

    def after_val_iter(self, runner: Runner, batch_idx: int, *args, **kwargs) -> None:
        """Stop a validation during training if a signal asks for it; it will run again after the resume."""
        loop = training_loop(runner)
        # not at a batch that only some processes have: they would wait for the others for ever
        if isinstance(loop, ResumableLoop) and batch_idx < self.batches and loop.is_asked_to_exit(loop.validation_poll):
            for hook in runner.hooks:
                if isinstance(hook, EMAHook | EndWholeModelHook):
                    hook.after_val_epoch(runner)  # gives the model its own weights back
            loop.save_and_exit()


def _early_stopping(runner: Runner) -> list[EarlyStoppingHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]
