"""The resume policy: which checkpoint a run continues from, what may have changed, and what is done again."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import torch
from mmengine.dist import all_reduce, broadcast, broadcast_object_list, get_world_size, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from backbones.errors import UserError

from ..compat.private_names import checkpoint_of, is_resuming, set_checkpoint, training_loop
from .checkpoint_files import last_checkpoint, note_last_checkpoint
from .loops import ResumableLoop

# types that had another name when the checkpoint was written, from their old to their present names
RENAMED = {"'outlive_signals'": "'ignore_signals'"}


@HOOKS.register_module()
class ResumeHook(Hook):
    """Resumes from the newest good checkpoint, reports what has changed, and repeats a validation that was cut off."""

    priority = 'LOWEST'

    def before_run(self, runner: Runner) -> None:
        """Find the checkpoint if none is named; one process does it for all."""
        if is_resuming(runner) and checkpoint_of(runner) is None:
            found = [last_checkpoint(runner.work_dir) if is_main_process() else None]
            broadcast_object_list(found)
            set_checkpoint(runner, found[0])

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Record the conditions of the run in the checkpoint."""
        if isinstance(runner.train_loop, ResumableLoop):
            checkpoint['meta']['run'] = conditions(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the conditions of the run with those of the checkpoint.

        Raises:
            UserError: If the run cannot be continued under the new conditions.
        """
        before = checkpoint.get('meta', {}).get('run')
        if before and is_resuming(runner):
            epoch, start = checkpoint['message_hub']['runtime_info'].get('epoch_start', (None, 0))
            within_epoch = epoch == checkpoint['meta']['epoch'] and checkpoint['meta']['iter'] > start
            compare(before, conditions(runner), within_epoch, runner.logger)

    def before_train(self, runner: Runner) -> None:
        """If the checkpoint was saved before a validation that was then cut off, run this validation first."""
        loop = runner.train_loop
        if not isinstance(loop, ResumableLoop):
            return
        if is_resuming(runner) and is_main_process():
            # checkpoints that are newer than this one belong to an abandoned run
            note_last_checkpoint(runner.work_dir, checkpoint_of(runner))
        validated = runner.message_hub.runtime_info.get('last_validation', 0)
        if validated != loop.iter and runner.val_loop is not None and loop.is_validation_due():
            runner.logger.info('The validation before this point was cut off and runs now')
            runner.val_loop.run()

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
        if isinstance(loop, ResumableLoop) and batch_idx < self.batches and loop.is_asked_to_exit():
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    hook.after_val_epoch(runner)  # gives the model its own weights back
            loop.save_and_exit()


def conditions(runner: Runner) -> dict[str, object]:
    """What the numbers of a run depend on besides its seed: processes, threads, data and settings."""
    dataset, loader = runner.train_dataloader.dataset, runner.cfg.train_dataloader
    sections = ('model', 'optim_wrapper', 'param_scheduler', 'train_dataloader', 'train_cfg', 'auto_scale_lr')
    settings = {}
    for section in sections:
        for key, value in _flatten(runner.cfg.get(section), section):
            if '.init_cfg' not in key:  # a resumed run does not use it
                settings[key] = value
    return dict(
        processes=get_world_size(),
        batch_size=loader.batch_size,
        images=len(dataset),
        classes=list(getattr(dataset, 'metainfo', {}).get('classes', ())),
        threads=torch.get_num_threads(),
        settings=settings,
    )


def compare(before: Mapping, now: Mapping, within_epoch: bool, logger: logging.Logger) -> None:
    """Log what differs between a run and its continuation.

    Args:
        before: Conditions in the checkpoint, as :func:`conditions` returns them.
        now: Conditions of this run.
        within_epoch: Whether the checkpoint was saved in the middle of an epoch.
        logger: The Runner's.

    Raises:
        UserError: If the classes differ, or if the data is divided differently in the middle of an epoch.
    """
    if before['classes'] != now['classes']:
        raise UserError(
            f'the checkpoint was trained on the classes {", ".join(before["classes"][:5])} ({len(before["classes"])}), '
            f'and this run has {", ".join(now["classes"][:5])} ({len(now["classes"])}): its labels would change their '
            'meaning. To fine-tune on other classes, use load_from and StrictLoadHook(reinitialise=...)'
        )
    changed = [f'{k} {before[k]} -> {now[k]}' for k in ('processes', 'batch_size', 'images') if before[k] != now[k]]
    if changed and within_epoch:
        raise UserError(
            f'the checkpoint was saved in the middle of an epoch, and {", ".join(changed)} would divide the rest of it '
            'differently: resume from the checkpoint of an epoch by --resume FILE, or under the earlier conditions'
        )
    if changed:
        logger.warning(f'RESUMED UNDER OTHER CONDITIONS, {", ".join(changed)}: the batches now hold other images')
    earlier = {key: RENAMED.get(value, value) for key, value in before['settings'].items()}
    differing = [
        f'{key}: {earlier.get(key, "not set")} -> {now["settings"].get(key, "not set")}'
        for key in earlier | now['settings']
        if earlier.get(key) != now['settings'].get(key)
    ]
    if differing:
        logger.warning('resumed with other settings:\n  ' + '\n  '.join(differing[:20]))
    if before['threads'] != now['threads']:
        logger.warning(f'threads {before["threads"]} -> {now["threads"]}: the last bits of sums will differ')


def _flatten(value: object, name: str) -> Iterator[tuple[str, str]]:
    """The settings of a section of a config by their dotted names."""
    if isinstance(value, Mapping) and value:
        items = value.items()
    elif isinstance(value, list) and value:
        items = enumerate(value)
    else:
        yield name, repr(value)
        return
    for key, part in items:
        yield from _flatten(part, f'{name}.{key}')
