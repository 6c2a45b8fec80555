"""Never lose a run: what is on by default in the base configs, and goes through mmengine's public extension points.

- :class:`ResumableEpochLoop`, :class:`ResumableIterLoop`: every random number that a step or a sample draws is a
  function of the seed, the process and the number of the iteration. So there is no random state to save, no data to
  replay, and a resumed run takes the steps of an uninterrupted one; to switch it off, mmengine's own loops in
  ``train_cfg``. They also save and leave when a signal asks for it.
- :class:`SafeCheckpointHook`: an old checkpoint goes only when the new one is on the disk and reads back; to switch it
  off, ``default_hooks.checkpoint.type=CheckpointHook``.
- :class:`ResumeHook`: resumes from the newest checkpoint that is good, says what is another than it was, and runs a
  validation again that was cut off.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import zipfile
from collections.abc import Iterator, Mapping
from itertools import repeat
from pathlib import Path

import torch
from mmengine.dist import (
    all_reduce,
    barrier,
    broadcast,
    broadcast_object_list,
    get_rank,
    get_world_size,
    is_main_process,
)
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.logging import print_log
from mmengine.registry import FUNCTIONS, HOOKS, LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import BatchSampler

from backbones.errors import UserError
from backbones.weights import read_checkpoint

from .draws import RestartableInfiniteSampler, seed_random
from .files import WholeFileBackend, whole_file
from .guards import GuardedSamples
from .optim import NotFiniteError

INTERRUPTED = 'interrupted.pth'
EXIT_CODE = os.EX_TEMPFAIL  # 75: try again
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # the last is what Slurm users ask for: --signal=USR1@120


# --- loops


@FUNCTIONS.register_module()
def outlive_signals(worker_id: int, **kwargs: object) -> None:
    """Let a data loader's process live until its owner ends it, when all are asked to leave: a ``worker_init_fn``.

    Ctrl-C and torchrun signal whole process groups. SIGTERM itself is not ignored: its owner ends it by that.
    """
    os.setpgrp()
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    seed_random(torch.initial_seed(), get_rank())  # for data sets that do not draw by iteration


class Resumable:
    """What the two loops have in common: a mixin for mmengine's training loops, whose data loader is a config."""

    def __init__(self, runner: Runner, dataloader: Mapping, *args, **kwargs) -> None:
        dataloader = dict(dataloader)
        dropping = dict(type=BatchSampler, drop_last=dataloader.pop('drop_last', False))
        inner = dataloader.get('batch_sampler') or dropping
        dataloader['batch_sampler'] = dict(type='NumberedBatchSampler', inner=inner)
        self.asked = 0  # the signal that asks to leave
        self.handlers = {number: signal.signal(number, self._ask) for number in SIGNALS}
        self.group = torch.distributed.new_group(backend='gloo') if get_world_size() > 1 else None
        super().__init__(runner, dataloader, *args, **kwargs)
        if not isinstance(self.dataloader.dataset, GuardedSamples):
            print_log(
                f'{type(self.dataloader.dataset).__name__} does not draw by iteration: its augmentations will differ '
                'after a resume',
                'current',
                logging.WARNING,
            )

    def run(self) -> torch.nn.Module:
        """Train; afterwards signals do again what they did before."""
        try:
            return super().run()
        finally:
            for number, handler in self.handlers.items():
                signal.signal(number, handler)

    def run_iter(self, *args) -> None:
        """Take a step; leave if a signal asked for it.

        Raises:
            UserError: If the gradients are not finite, or the GPU's memory is exhausted.
        """
        seed_random(self.seed, get_rank(), self._iter)
        batch, wrapper = args[-1], self.runner.optim_wrapper
        try:
            super().run_iter(*args)
        except NotFiniteError:
            raise UserError(
                f'the gradients of iteration {self._iter + 1} are not finite, after {wrapper.max_bad_steps} left out '
                f'before it; the images are {_images(batch)}. The weights were not changed by it. Lower the learning '
                'rate, clip by optim_wrapper.clip_grad.max_norm=1, train in bfloat16 by optim_wrapper.dtype=bfloat16, '
                'or let some pass by optim_wrapper.max_bad_steps'
            ) from None
        except torch.OutOfMemoryError as error:
            sizes = ', '.join('x'.join(map(str, image.shape[-2:])) for image in batch['inputs'])
            raise UserError(
                f'out of GPU memory at iteration {self._iter + 1} with images of {sizes}: lower '
                'train_dataloader.batch_size and raise optim_wrapper.accumulative_counts, or set '
                f'model.backbone.with_cp=True [{str(error).splitlines()[0]}]'
            ) from error
        steps = getattr(wrapper, '_accumulative_counts', 1)
        if (bad := getattr(wrapper, 'bad_steps', 0)) and self._iter % steps == 0:
            self.runner.logger.warning(
                f'step {self._iter} was left out, its gradients are not finite ({bad} in a row, '
                f'{wrapper.max_bad_steps} are allowed); the images are {_images(batch)}'
            )
            poisoned = [name for name, buffer in self.runner.model.named_buffers() if not buffer.isfinite().all()]
            if poisoned:
                raise UserError(
                    f'{poisoned[0]} is not finite after iteration {self._iter}, which leaving steps out cannot mend; '
                    f'the images are {_images(batch)}. Resume with a lower learning rate or clipping'
                )
        if self.is_asked():
            self.leave()

    def is_asked(self) -> bool:
        """Whether any process was sent a signal, and nothing would be lost."""
        asked = torch.tensor(self.asked)
        if self.group:
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX, self.group)
        self.asked = asked.item()
        steps = getattr(self.runner.optim_wrapper, '_accumulative_counts', 1)
        return bool(asked) and self._iter % steps == 0  # gradients that are being accumulated would be lost

    def leave(self) -> None:
        """Save and exit with :data:`EXIT_CODE`."""
        meta = dict(epoch=self._epoch, iter=self._iter)
        self.runner.save_checkpoint(
            self.runner.work_dir, INTERRUPTED, meta=meta, by_epoch=False, backend_args=dict(backend='whole')
        )
        if is_main_process():
            name_last(self.runner.work_dir, Path(self.runner.work_dir, INTERRUPTED))
        barrier()
        self.runner.logger.warning(
            f'{signal.Signals(self.asked).name}: saved at iteration {self._iter}; --resume goes on from here'
        )
        sys.exit(EXIT_CODE)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = number
        signal.signal(number, self.handlers[number])  # who asks twice does not want to wait
        if is_main_process():
            print(f'{signal.Signals(number).name}: the run saves and leaves after this step; again ends it at once')

    def _begin(self, first: int) -> None:
        """Let the data loader begin with this iteration, where its order began at iteration ``first``."""
        seed = [self.runner.seed]  # of the checkpoint, where the run is resumed; without that of the process
        broadcast_object_list(seed)
        self.seed = seed[0]
        self.dataloader.batch_sampler.begin(self.seed, first, self._iter)


def _images(batch: Mapping) -> str:
    return ', '.join(sample.get('img_path', 'without a name') for sample in batch['data_samples'])


@LOOPS.register_module()
class ResumableEpochLoop(Resumable, EpochBasedTrainLoop):
    """mmengine's loop by epochs, whose resumed runs take the steps of an uninterrupted one, from any iteration."""

    epoch_start = 0  # iteration at which the epoch began

    def run(self) -> torch.nn.Module:
        """Train from the iteration on at which the checkpoint was saved."""
        epoch, start = self.runner.message_hub.runtime_info.get('epoch_start', (None, 0))
        self.epoch_start = start if epoch == self._epoch else self._iter
        return super().run()

    def run_epoch(self) -> None:
        """Train for the rest of the epoch."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        self.runner.message_hub.update_info('epoch_start', [self._epoch, self.epoch_start])
        self._begin(self.epoch_start)
        for index, batch in enumerate(self.dataloader, self._iter - self.epoch_start):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        self.epoch_start = self._iter

    def is_validation_due(self) -> bool:
        """Whether a run that has come here validates now."""
        due = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
        return self._iter == self.epoch_start and self._epoch >= self.val_begin and due


@LOOPS.register_module()
class ResumableIterLoop(Resumable, IterBasedTrainLoop):
    """mmengine's loop by iterations, whose resumed runs take the steps of an uninterrupted one and replay no data."""

    def __init__(self, runner: Runner, dataloader: Mapping, *args, **kwargs) -> None:
        super().__init__(runner, dataloader, *args, **kwargs)
        if not isinstance(self.dataloader.batch_sampler.sampler, RestartableInfiniteSampler):
            raise UserError(
                "ResumableIterLoop needs train_dataloader.sampler=dict(type='RestartableInfiniteSampler', shuffle=True)"
            )

    def run(self) -> torch.nn.Module:
        """Train from the iteration on at which the checkpoint was saved."""
        self.dataloader_iterator = self._batches(self._iter)
        return super().run()

    def _batches(self, begin: int) -> Iterator[dict | None]:
        yield from repeat(None, begin)  # mmengine lets pass what it has trained on; nothing need be loaded for that
        self._begin(0)
        yield from self.dataloader

    def is_validation_due(self) -> bool:
        """Whether a run that has come here validates now."""
        return self._iter >= self.val_begin and (self._iter % self.val_interval == 0 or self._iter == self._max_iters)


# --- checkpoints


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook by which, whatever happens, a good checkpoint is on the disk."""

    last_step: tuple[int, int] | None = None  # of the last checkpoint: its number, and the iteration
    scored = False  # whether it has been saved since the validation

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **{'backend_args': dict(backend='whole')} | kwargs)

    def before_train(self, runner: Runner) -> None:
        """Know what was kept of a resumed run, and remove what a kill left half written."""
        super().before_train(runner)
        self.file_backend = DeferringBackend()
        if self.save_best and (best := getattr(self, 'best_ckpt_path', None)):
            self.best_ckpt_path = os.path.join(self.out_dir, os.path.basename(best))  # it may have been moved
        if step := runner.message_hub.runtime_info.get('last_step'):
            self.last_step, self.last_ckpt = tuple(step), os.path.join(self.out_dir, self.filename_tmpl.format(step[0]))
        if is_main_process():
            for path in Path(self.out_dir).glob('.*.part.*.pth'):
                path.unlink()

    def after_val_epoch(self, runner: Runner, metrics: Mapping) -> None:
        """Save the best checkpoint, and in the last one that it has been validated, with the scores."""
        runner.message_hub.update_info('last_validation', runner.iter)
        self.scored = False
        super().after_val_epoch(runner, metrics)
        if self.last_step and self.last_step[1] == runner.iter and not self.scored:  # mmengine does it for a best one
            self._save_checkpoint_with_step(runner, self.last_step[0], dict(epoch=runner.epoch, iter=runner.iter))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """mmengine's, in a safe order: write the checkpoint, name it the last one, remove an old one."""
        if self.max_keep_ckpts > 0 and (not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step):
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                self.file_backend.remove(Path(self.out_dir, self.filename_tmpl.format(self.keep_ckpt_ids.popleft())))
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self.last_step, self.scored = (step, meta['iter']), True
        runner.message_hub.update_info('last_step', list(self.last_step))
        filename = self.filename_tmpl.format(step)
        self.last_ckpt = os.path.join(self.out_dir, filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
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
        if is_main_process():  # it alone has written
            name_last(runner.work_dir, self.last_ckpt)
            self.file_backend.remove(Path(runner.work_dir, INTERRUPTED))
            self.file_backend.remove_now()

    def _save_best_checkpoint(self, runner: Runner, metrics: Mapping) -> None:
        super()._save_best_checkpoint(runner, metrics)
        if is_main_process():
            self.file_backend.remove_now()


class DeferringBackend(WholeFileBackend):
    """Removes nothing before :meth:`remove_now`: mmengine removes an old checkpoint before it writes a new one."""

    def __init__(self) -> None:
        self.outdated: list[Path] = []

    def remove(self, filepath: str | Path) -> None:
        """Remember a file."""
        self.outdated.append(Path(filepath))

    def remove_now(self) -> None:
        """Remove what :meth:`remove` was called for."""
        while self.outdated:
            self.outdated.pop().unlink(missing_ok=True)


def name_last(work_dir: str | Path, checkpoint: str | Path) -> None:
    """Write the newest checkpoint's name, seen from the work directory, which may be moved, to ``last_checkpoint``."""
    with whole_file(Path(work_dir, 'last_checkpoint')) as temporary:
        temporary.write_text(os.path.relpath(checkpoint, work_dir))


def checkpoints(work_dir: str | Path) -> list[Path]:
    """The checkpoints of a work directory that can be resumed: an interrupted one, then the newest first."""
    numbered = {
        int(m[1]): p for p in Path(work_dir).glob('*.pth') if (m := re.fullmatch(r'(?!best_|\.).*?(\d+)', p.stem))
    }
    interrupted = Path(work_dir, INTERRUPTED)
    return [interrupted] * interrupted.exists() + [numbered[number] for number in sorted(numbered, reverse=True)]


def last_checkpoint(work_dir: str | Path) -> Path | None:
    """The newest good checkpoint of a work directory, or ``None`` if it holds none at all.

    Raises:
        UserError: If there are checkpoints, and all are damaged.
    """
    found: dict[Path, int] = {}
    candidates, note = checkpoints(work_dir), Path(work_dir, 'last_checkpoint')
    named = Path(work_dir, note.read_text() if note.exists() else '')
    if named.is_file():  # before newer ones, of a run that was given up
        candidates = [named, *(path for path in candidates if path != named)]
    for path in candidates:
        try:
            with zipfile.ZipFile(path) as archive:  # PyTorch does not look at the check sums
                if broken := archive.testzip():
                    raise UserError(f'{broken} in it has another check sum than its content')
            found[path] = read_checkpoint(path)['meta']['iter']
        except Exception as error:  # whatever a damaged file makes of its readers
            print_log(f'checkpoint {path} is damaged and passed over: {error}', 'current', logging.WARNING)
        if path in found and (path == named or path.name != INTERRUPTED):
            break  # the others are older
    if candidates and not found:
        raise UserError(
            f'all {len(candidates)} checkpoints in {work_dir} are damaged, the first is {candidates[0]}: resume from a '
            'copy by --resume FILE, or start anew in another --work-dir'
        )
    return max(found, key=found.get, default=None)


# --- resuming


@HOOKS.register_module()
class ResumeHook(Hook):
    """Resumes from the newest good checkpoint, says what is another than it was, and validates what was cut off."""

    priority = 'LOWEST'

    def before_run(self, runner: Runner) -> None:
        """Find the checkpoint, where none is named; on one process for all."""
        if runner._resume and runner._load_from is None:
            found = [last_checkpoint(runner.work_dir) if is_main_process() else None]
            broadcast_object_list(found)
            runner._load_from = found[0] and str(found[0])
            runner._resume = bool(found[0])

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note the circumstances."""
        if isinstance(runner.train_loop, Resumable):
            checkpoint['meta']['run'] = circumstances(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the circumstances.

        Raises:
            UserError: If the resumed run would be nonsense.
        """
        before = checkpoint.get('meta', {}).get('run') if runner._resume else None
        if before:
            epoch, start = checkpoint['message_hub']['runtime_info'].get('epoch_start', (None, 0))
            within = epoch == checkpoint['meta']['epoch'] and checkpoint['meta']['iter'] > start
            compare(before, circumstances(runner), within, runner.logger)

    def before_train(self, runner: Runner) -> None:
        """Begin where the checkpoint was saved, with the validation that it was saved for, if that was cut off."""
        loop = runner.train_loop
        if not isinstance(loop, Resumable):
            return
        if runner._resume and is_main_process():
            name_last(runner.work_dir, runner._load_from)  # what comes after it belongs to another run from here on
        validated = runner.message_hub.runtime_info.get('last_validation', 0)
        if validated != loop.iter and runner.val_loop is not None and loop.is_validation_due():
            runner.logger.info('The validation before this point was cut off and runs now')
            runner.val_loop.run()

    def before_val_epoch(self, runner: Runner) -> None:
        """Let all processes score one model: without SyncBN, each has statistics of its own, and one's are saved."""
        for buffer in runner.model.buffers():
            broadcast(buffer)
        batches = torch.tensor(len(runner.val_dataloader))
        all_reduce(batches, 'min')
        self.batches = batches.item()

    def after_val_iter(self, runner: Runner, batch_idx: int, *args, **kwargs) -> None:
        """Leave a validation during the training, if a signal asks for it; it will run again."""
        loop = runner._train_loop
        # in batches that only some processes have, these would wait for the others' answers for ever
        if isinstance(loop, Resumable) and batch_idx < self.batches and loop.is_asked():
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    hook.after_val_epoch(runner)  # gives the model its own weights back
            loop.leave()


def circumstances(runner: Runner) -> dict[str, object]:
    """What a run's numbers depend on besides its seed: the world it runs in, its data and its settings."""
    dataset, loader = runner.train_dataloader.dataset, runner.cfg.train_dataloader
    sections = ('model', 'optim_wrapper', 'param_scheduler', 'train_dataloader', 'train_cfg', 'auto_scale_lr')
    return dict(
        processes=get_world_size(),
        batch_size=loader.batch_size,
        images=len(dataset),
        classes=list(getattr(dataset, 'metainfo', {}).get('classes', ())),
        threads=torch.get_num_threads(),
        settings={
            key: value
            for section in sections
            for key, value in _flat(runner.cfg.get(section), section)
            if '.init_cfg' not in key  # which a resumed run does not use
        },
    )


def compare(before: Mapping, now: Mapping, within_epoch: bool, logger: logging.Logger) -> None:
    """Say what differs between a run and its continuation, and refuse where that makes no sense."""
    if before['classes'] != now['classes']:
        raise UserError(
            f'the checkpoint was trained on the classes {", ".join(before["classes"][:5])} ({len(before["classes"])}), '
            f'and this run has {", ".join(now["classes"][:5])} ({len(now["classes"])}): its labels would change their '
            'meaning. To fine-tune on other classes, use load_from and StrictLoadHook(reinitialise=...)'
        )
    order = [f'{k} {before[k]} -> {now[k]}' for k in ('processes', 'batch_size', 'images') if before[k] != now[k]]
    if order and within_epoch:
        raise UserError(
            f'the checkpoint was saved in the middle of an epoch, whose rest does not exist with {", ".join(order)}: '
            'resume from the checkpoint of an epoch by --resume FILE, or as it was'
        )
    if order:
        logger.warning(f'RESUMED IN ANOTHER WORLD, {", ".join(order)}: other images make up the batches from here on')
    settings = before['settings'], now['settings']
    changed = [
        f'{key}: {settings[0].get(key, "nothing")} -> {settings[1].get(key, "nothing")}'
        for key in settings[0] | settings[1]
        if settings[0].get(key) != settings[1].get(key)
    ]
    if changed:
        logger.warning('resumed with other settings:\n  ' + '\n  '.join(changed[:20]))
    if before['threads'] != now['threads']:
        logger.warning(f'threads {before["threads"]} -> {now["threads"]}: the last bits of sums will differ')


def _flat(value: object, name: str) -> Iterator[tuple[str, str]]:
    """The settings of a section of a config by their dotted names."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    if items:
        for key, part in items:
            yield from _flat(part, f'{name}.{key}')
    else:
        yield name, repr(value)
