"""Training loops that can be resumed from any iteration.

Every random number of a training step or of a sample is a function of the seed, the process and the iteration's number.
So there is no random state to save and no data to replay, and a resumed run takes the steps of an uninterrupted one.
The loops also save a checkpoint and exit when a signal asks for it. To switch this off, name mmengine's own loops in
``train_cfg``.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import NoReturn

import torch
from mmengine.dist import barrier, broadcast_object_list, get_rank, is_main_process
from mmengine.logging import print_log
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import BatchSampler

from backbones.errors import UserError

from ..compat.private_names import accumulated_steps
from .batches import image_paths, parts_of
from .checkpoint_files import INTERRUPTED, note_last_checkpoint
from .optimizer_wrappers import FiniteOptimWrapper, NotFiniteError, NotFiniteLossError, optimizer_wrappers
from .sampling import caching_transforms, refuse_endless_epochs, seed_all
from .sharding import shard, whole_states
from .signals import EXIT_CODE, SIGNALS, SignalPoll

MODULES_WITH_MEMORY = ('DynamicRoIHead',)  # mmdet's Dynamic R-CNN: its thresholds follow from earlier iterations


class ResumableLoop:
    """What the two loops have in common, a mixin for mmengine's training loops.

    Args:
        runner: The Runner.
        dataloader: The training data loader, as a config.
        *args: Further arguments of mmengine's loop.
        **kwargs: Further arguments of mmengine's loop.
    """

    endless: bool  # whether the epochs of the data follow each other without an end
    multiple = 1  # of which the number of batches of an epoch is a multiple

    def __init__(self, runner: Runner, dataloader: Mapping, *args, **kwargs) -> None:
        dataloader = dict(dataloader)
        plain_batches = dict(type=BatchSampler, drop_last=dataloader.pop('drop_last', False))
        inner = dataloader.get('batch_sampler') or plain_batches
        dataloader['batch_sampler'] = dict(
            type='NumberedBatchSampler', inner=inner, endless=self.endless, multiple=self.multiple
        )
        collate = dataloader.get('collate_fn') or dict(type='pseudo_collate')
        dataloader['collate_fn'] = dict(type='seeded_collate', collate=collate)
        dataloader['dataset'] = dict(type='SeededDataset', dataset=dataloader['dataset'])
        self.signal_number = 0  # of the signal that asks this process to stop
        self.agreed_signal = 0  # of the signal on which all processes have agreed
        self.training_poll, self.validation_poll = SignalPoll(), SignalPoll()  # their iterations differ in length
        # from here on, since data and checkpoint may take long to load; the values are the handlers before the training
        self.handlers = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        super().__init__(runner, dataloader, *args, **kwargs)
        modules = (type(module).__name__ for module in runner.model.modules())
        with_memory = {name for name in modules if name in MODULES_WITH_MEMORY}
        for name in sorted(with_memory.union(caching_transforms(self.dataloader.dataset.dataset))):
            print_log(
                f'{name} has a memory of earlier iterations that no checkpoint holds: a resumed run will differ from '
                'an uninterrupted one',
                'current',
                logging.WARNING,
            )

    def run(self) -> torch.nn.Module:
        """Train; afterwards, restore the handlers of the signals that ask to save and exit."""
        shard(self.runner)  # all weights are loaded, and no hook has begun with them
        try:
            return super().run()
        finally:
            for number, handler in self.handlers.items():
                signal.signal(number, handler)

    def run_iter(self, *args) -> None:
        """Take a step; save and exit if a signal asked for it.

        Raises:
            UserError: If the gradients or the loss are not finite, or the GPU's memory is exhausted.
        """
        seed_all(self.seed, get_rank(), self.iter)
        batch = args[-1]
        try:
            super().run_iter(*args)
        except NotFiniteError as error:
            raise UserError(
                f'the gradients of iteration {self.iter + 1} are not finite, and {error.max_bad_steps} steps before '
                f'it were skipped already; its images are {image_paths(batch)}. The weights are as they were. Lower '
                'the learning rate, clip by optim_wrapper.clip_grad.max_norm=1, train in bfloat16 by '
                'optim_wrapper.dtype=bfloat16, or allow more such steps by optim_wrapper.max_bad_steps'
            ) from None
        except NotFiniteLossError:
            raise UserError(
                f'the loss of iteration {self.iter + 1} is not finite although its gradients are, as with a mean over '
                f'no pixels; its images are {image_paths(batch)}. The weights are as they were. Are all labels of '
                'one of these images ignored? optim_wrapper.max_bad_steps allows such steps'
            ) from None
        except torch.OutOfMemoryError as error:
            images = [image for image in parts_of(batch['inputs']) if isinstance(image, torch.Tensor)]
            sizes = ', '.join('x'.join(map(str, image.shape[-2:])) for image in images)
            raise UserError(
                f'out of GPU memory at iteration {self.iter + 1} with images of {sizes}: lower '
                'train_dataloader.batch_size and raise optim_wrapper.accumulative_counts, or set '
                f'model.backbone.with_cp=True [{str(error).splitlines()[0]}]'
            ) from error
        except Exception as error:
            error.add_note(f'in iteration {self.iter + 1} with the images {image_paths(batch)}')
            raise
        for wrapper in optimizer_wrappers(self.runner):
            if getattr(wrapper, 'bad_steps', 0) and self.is_between_updates():
                self._report_skipped_step(batch, wrapper)
            elif getattr(wrapper, 'bad_losses', 0) and self.is_between_updates():
                self.runner.logger.warning(
                    f'the loss of step {self.iter} is not finite although its gradients are ({wrapper.bad_losses} in a '
                    f'row, {wrapper.max_bad_steps} are allowed); its images are {image_paths(batch)}'
                )
        if self.is_asked_to_exit(self.training_poll):
            self.save_and_exit()

    def _report_skipped_step(self, batch: Mapping, wrapper: FiniteOptimWrapper) -> None:
        self.runner.logger.warning(
            f'step {self.iter} was skipped because its gradients are not finite ({wrapper.bad_steps} in a row, '
            f'{wrapper.max_bad_steps} are allowed); its images are {image_paths(batch)}'
        )
        for name, buffer in self.runner.model.named_buffers():
            if not buffer.isfinite().all():
                raise UserError(
                    f'{name} is not finite after iteration {self.iter}, and skipping steps cannot repair it; the '
                    f'images are {image_paths(batch)}. Resume with a lower learning rate or with clipping'
                )

    def is_between_updates(self) -> bool:
        """Whether no gradients are being accumulated."""
        return self.iter % accumulated_steps(self.runner.optim_wrapper) == 0 or self.iter == self.max_iters

    def is_asked_to_exit(self, poll: SignalPoll) -> bool:
        """Whether any process has received a signal, and the run can stop here without losing anything."""
        self.agreed_signal = self.agreed_signal or poll.ask(self.signal_number)
        return bool(self.agreed_signal) and self.is_between_updates()

    def save_and_exit(self) -> NoReturn:
        """Save a checkpoint and exit with :data:`~mmengine_plugin.engine.signals.EXIT_CODE`."""
        meta = dict(epoch=self.epoch, iter=self.iter)
        self.runner.message_hub.update_info('interrupted', self.iter)
        with whole_states(self.runner):
            self.runner.save_checkpoint(
                self.runner.work_dir, INTERRUPTED, meta=meta, by_epoch=False, backend_args=dict(backend='atomic')
            )
        if is_main_process():
            note_last_checkpoint(self.runner.work_dir, Path(self.runner.work_dir, INTERRUPTED))
        barrier()
        self.runner.logger.warning(
            f'{signal.Signals(self.agreed_signal).name}: saved at iteration {self.iter}; --resume goes on from here'
        )
        sys.exit(EXIT_CODE)

    def _on_signal(self, number: int, frame: object) -> None:
        self.signal_number = number
        signal.signal(number, self.handlers[number])  # a second signal ends the process at once
        if is_main_process():
            name = signal.Signals(number).name
            print(f'{name}: the run will save a checkpoint and exit soon; a second signal ends it at once')

    def _begin_batches(self, first: int) -> None:
        """Let the data loader begin with the current iteration; its order of the data begins at iteration ``first``."""
        seed = [self.runner.seed]  # a resumed run has that of its checkpoint, and all processes use the first one's
        broadcast_object_list(seed)
        self.seed = seed[0]
        self.dataloader.batch_sampler.begin(self.seed, first, self.iter)


@LOOPS.register_module()
class ResumableEpochLoop(ResumableLoop, EpochBasedTrainLoop):
    """mmengine's loop by epochs; a resumed run takes the steps of an uninterrupted one, from any iteration.

    Args:
        runner: The Runner.
        dataloader: The training data loader, as a config.
        *args: Further arguments of mmengine's loop.
        drop_last_step: Whether an epoch ends with the last step for which it has all accumulated batches. Otherwise,
            the next epoch completes that step.
        **kwargs: Further arguments of mmengine's loop.
    """

    endless = False
    epoch_start = 0  # the iteration at which the epoch began

    def __init__(self, runner: Runner, dataloader: Mapping, *args, drop_last_step: bool = False, **kwargs) -> None:
        if drop_last_step:
            self.multiple = (runner.cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)
        super().__init__(runner, dataloader, *args, **kwargs)
        refuse_endless_epochs(self)

    def run(self) -> torch.nn.Module:
        """Train from the iteration at which the checkpoint was saved."""
        epoch, start = self.runner.message_hub.runtime_info.get('epoch_start', (None, 0))
        self.epoch_start = start if epoch == self.epoch else self.iter
        return super().run()

    def run_epoch(self) -> None:
        """Train for the rest of the epoch."""
        self.runner.message_hub.update_info('epoch_start', [self.epoch, self.epoch_start])
        self.done = self.iter - self.epoch_start  # iterations of this epoch before the resume
        self._begin_batches(self.epoch_start)
        super().run_epoch()
        self.epoch_start = self.iter

    def run_iter(self, idx: int, data_batch: Mapping) -> None:
        """Take a step; ``idx`` counts from the iteration at which the epoch was resumed."""
        super().run_iter(self.done + idx, data_batch)

    def is_validation_due(self) -> bool:
        """Whether a validation is due after the current number of iterations."""
        due = self.epoch % self.val_interval == 0 or self.epoch == self.max_epochs
        return self.iter == self.epoch_start and self.epoch >= self.val_begin and due


@LOOPS.register_module()
class ResumableIterLoop(ResumableLoop, IterBasedTrainLoop):
    """mmengine's loop by iterations; a resumed run takes the steps of an uninterrupted one and replays no data."""

    endless = True

    def run(self) -> torch.nn.Module:
        """Train from the iteration at which the checkpoint was saved."""
        self.dataloader_iterator = self._batches(self.iter)
        return super().run()

    def _batches(self, begin: int) -> Iterator[dict | None]:
        yield from repeat(None, begin)  # mmengine skips the batches that the run has trained on; none need be loaded
        self._begin_batches(0)
        yield from self.dataloader

    def is_validation_due(self) -> bool:
        """Whether a validation is due after the current number of iterations."""
        due = self.iter % self.val_interval == 0 or self.iter == self.max_iters
        return self.iter >= self.val_begin and due
