"""MambaOut's additions to mmengine, common to detection and segmentation.

Importing this package (or ``mmdet_plugin`` or ``mmseg_plugin``, which import it) changes these entries and no others:

- ``MODELS['MambaOut']``, ``MODELS['MambaOutClassifier']``: the backbone, and with its classifier
  (:mod:`backbones.mambaout`)
- ``MODELS['VMamba']``: selective scans in four orders (:mod:`backbones.vmamba`)
- ``MODELS['ViT']``: fully-visible or causal attention behind the same heads (:mod:`backbones.vit`)
- ``OPTIM_WRAPPERS['AmpOnCudaOptimWrapper']``: fp16 on CUDA, fp32 elsewhere; it is a ``'FiniteAmpOptimWrapper'`` or a
  ``'FiniteOptimWrapper'``, which take no step by gradients that are not finite (:mod:`mmengine_plugin.optim`)
- ``LOOPS['ResumableEpochLoop']``, ``LOOPS['ResumableIterLoop']``, ``HOOKS['SafeCheckpointHook']``,
  ``HOOKS['ResumeHook']``, ``FUNCTIONS['outlive_signals']``, and a file backend, ``'whole'``: never lose a run
  (:mod:`mmengine_plugin.resume`, :mod:`mmengine_plugin.files`)
- ``DATA_SAMPLERS['RestartableInfiniteSampler']``, ``DATA_SAMPLERS['NumberedBatchSampler']``: the order of the data as a
  function of the seed (:mod:`mmengine_plugin.draws`)
- ``HOOKS['StrictLoadHook']``: refuses checkpoints that do not fit the model (:mod:`mmengine_plugin.checkpoint`)
- ``HOOKS['NumClassesHook']``: refuses heads that do not fit the data (:mod:`mmengine_plugin.guards`)
- ``HOOKS['CompileBackboneHook']``: ``torch.compile`` on the backbone alone (:mod:`mmengine_plugin.compiling`)
- ``HOOKS['SkippedSamplesHook']``: lists the training samples that could not be used (:mod:`mmengine_plugin.guards`)
- ``CheckpointLoader``, every scheme and a new one, ``hf-hub:``: run no code that a checkpoint brings along
  (:mod:`mmengine_plugin.checkpoint`)
- ``sys.modules['mmcv._ext']``, only without a compiled mmcv: its operators (:mod:`mmengine_plugin.mmcv_ext`)
"""

import sys
from pathlib import Path

_here = Path(__file__).resolve().parent
_root = _here if (_here / 'configs').is_dir() else _here.parent  # installed, or a checkout
try:
    import backbones

    if Path(backbones.__file__ or '').resolve().parent != _here.parent / 'backbones':
        raise ImportError(
            f'MambaOut needs its own package `backbones`, but {backbones.__file__ or list(backbones.__path__)} '
            'comes first on sys.path: rename that folder or start from another directory'
        )
    from . import checkpoint, compiling, guards, mmcv_ext, optim, resume
except Exception as error:
    if 'doctor' not in sys.modules:  # else, this is a program of ours, which says more
        error.add_note(f'`{sys.executable} {_root}/tools/doctor.py` says what does not fit, and what to type')
    raise

mmcv_ext.install()

__all__ = ['checkpoint', 'compiling', 'config', 'guards', 'mmcv_ext', 'optim', 'resume']


def config(name: str) -> str:
    """The path of one of our configs, for inheritance from anywhere.

    Args:
        name: A config's file name without ``.py``, for example ``'mask_rcnn_mambaout_tiny'``.

    Returns:
        The absolute path, in a checkout as in an installed package.

    Raises:
        UserError: If there is no such config.

    Example:
        In a config of one's own, anywhere on disk::

            _base_ = __import__('mmdet_plugin').config('mask_rcnn_mambaout_tiny')
    """
    folder = _root / 'configs'
    path = folder / f'{name}.py'
    if not path.is_file():
        known = [str(p.relative_to(folder).with_suffix('')) for p in folder.rglob('*.py')]
        raise backbones.UserError(f'no config {name!r} in {folder}{backbones.errors.did_you_mean(name, known)}')
    return str(path)
