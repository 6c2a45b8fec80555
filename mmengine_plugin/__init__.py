"""What MambaOut adds to mmengine, for detection, segmentation and classification alike.

The rooms:

- :mod:`~mmengine_plugin.engine`: what a Runner calls
- :mod:`~mmengine_plugin.checks`: what is checked before the first step of a run
- :mod:`~mmengine_plugin.data`: images and samples, checked before a training and while it runs
- :mod:`~mmengine_plugin.inference`: predictions for one's own images, and pictures
- :mod:`~mmengine_plugin.analysis`: files of predictions, and figures of what is wrong with them
- :mod:`~mmengine_plugin.compat`: what stands in for parts of mmcv and mmengine
- :mod:`~mmengine_plugin.cli`: what the programs in ``tools/`` share

Importing this package (or ``mmdet_plugin``, ``mmseg_plugin`` or ``timm_plugin``, which import it) changes these entries
and no others:

- ``MODELS['MambaOut']``: the backbone of the paper (:mod:`backbones.mambaout`)
- ``MODELS['PlainMamba']``: scans along snakes through neighbouring cells (:mod:`backbones.plain_mamba`)
- ``MODELS['S4NDConvNeXt']``: convolutions as large as the map, in ConvNeXt (:mod:`backbones.s4nd`)
- ``MODELS['VMamba']``: selective scans in four orders (:mod:`backbones.vmamba`)
- ``MODELS['LocalVMamba']``, ``MODELS['LocalVim']``: selective scans in searched orders, also window by window
  (:mod:`backbones.local_mamba`)
- ``MODELS['EfficientVMamba']``: atrous selective scans, and inverted residuals (:mod:`backbones.efficient_vmamba`)
- ``MODELS['Vim']``: scans forwards and backwards over patches (:mod:`backbones.vim`)
- ``MODELS['ViT']``: fully-visible or causal attention behind the same heads (:mod:`backbones.vit`)
- ``torch.ops.mambaout``: the operators of the backbones (:mod:`backbones.ops`)
- ``OPTIM_WRAPPERS['AmpOnCudaOptimWrapper']``, ``['FiniteAmpOptimWrapper']``, ``['FiniteOptimWrapper']``: fp16 on CUDA,
  fp32 elsewhere, and no step by gradients that are not finite (:mod:`~mmengine_plugin.engine.optimizer_wrappers`)
- ``OPTIM_WRAPPER_CONSTRUCTORS['LayerDecayOptimWrapperConstructor']``: learning rates that fall from the heads to the
  stem (:mod:`~mmengine_plugin.engine.layer_decay`)
- ``LOOPS['ResumableEpochLoop']``, ``LOOPS['ResumableIterLoop']``: training that resumes bit for bit; from their
  construction to the end of the training, they handle SIGTERM, SIGINT and SIGUSR1
  (:mod:`~mmengine_plugin.engine.loops`)
- ``HOOKS['SafeCheckpointHook']``, ``HOOKS['ResumeHook']`` (:mod:`~mmengine_plugin.engine.checkpoint_hook`,
  :mod:`~mmengine_plugin.engine.resume`)
- ``FUNCTIONS['seeded_collate']``: batches as a function of the seed (:mod:`~mmengine_plugin.engine.sampling`)
- ``FUNCTIONS['ignore_signals']``, also by its earlier name ``'outlive_signals'``
  (:mod:`~mmengine_plugin.engine.signals`)
- mmengine's file backend ``'atomic'``, also by its earlier name ``'whole'`` (:mod:`~mmengine_plugin.atomic_files`)
- ``DATASETS['SeededDataset']``, ``DATA_SAMPLERS['NumberedBatchSampler']``: samples and their order as a function of the
  seed; ``DATA_SAMPLERS['RestartableInfiniteSampler']``, an earlier name of mmengine's InfiniteSampler
  (:mod:`~mmengine_plugin.engine.sampling`)
- ``HOOKS['StrictLoadHook']``: refuses checkpoints that do not fit the model
  (:mod:`~mmengine_plugin.engine.strict_load_hook`)
- ``HOOKS['CompileBackboneHook']``: ``torch.compile`` for the backbone alone
  (:mod:`~mmengine_plugin.engine.compile_hook`)
- ``MODEL_WRAPPERS['ShardedDataParallel']``: each process holds a part of the model
  (:mod:`~mmengine_plugin.engine.sharding`)
- ``HOOKS['CheckRunHook']``: refuses runs that would fail late (:mod:`~mmengine_plugin.checks.check_run_hook`)
- ``HOOKS['NumClassesHook']``: refuses heads that do not fit the data (:mod:`~mmengine_plugin.checks.classes`)
- ``HOOKS['SkippedSamplesHook']``: lists the training samples that could not be used
  (:mod:`~mmengine_plugin.data.checked_samples`)
- ``CheckpointLoader``, all schemes and a new one, ``hf-hub:``: readers that run no code of a checkpoint
  (:mod:`~mmengine_plugin.compat.checkpoint_loader`)
- ``mmengine.config.utils.load``: reads each metafile of mmdet and mmseg once (:mod:`~mmengine_plugin.compat.metafiles`)
- ``sys.modules['mmcv._ext']``, only without a compiled mmcv: its operators (:mod:`~mmengine_plugin.compat.mmcv_ext`)

The programs in ``tools/`` add more in their own processes: ``MODEL_WRAPPERS['CPUDistributedDataParallel']`` and
PyTorch's rendezvous ``restarts://`` (:mod:`~mmengine_plugin.cli.launching`), and ``sys.excepthook``, which says what to
type after a failed import (``tools/doctor.py``).
"""

import sys
from pathlib import Path

_package = Path(__file__).resolve().parent
_root = _package if (_package / 'tools').is_dir() else _package.parent  # of an installed package, or of a checkout
try:
    import backbones

    if Path(backbones.__file__ or '').resolve().parent != _package.parent / 'backbones':
        raise ImportError(
            f'MambaOut needs its own package `backbones`, but {backbones.__file__ or list(backbones.__path__)} '
            'comes first on sys.path: rename that folder or start from another directory'
        )
    from .checks import check_run_hook, classes  # noqa: F401  (imported for what they register)
    from .compat import checkpoint_loader, metafiles, mmcv_ext  # noqa: F401
    from .config_paths import config
    from .data import checked_samples  # noqa: F401
    from .engine import (  # noqa: F401
        checkpoint_hook,
        compile_hook,
        layer_decay,
        loops,
        optimizer_wrappers,
        resume,
        signals,
        strict_load_hook,
    )
except Exception as error:
    if 'doctor' not in sys.modules:  # otherwise, a program of ours says more
        error.add_note(f'`{sys.executable} {_root}/tools/doctor.py` says what does not fit, and what to type')
    raise

mmcv_ext.install()
metafiles.read_once()

__all__ = ['config']
