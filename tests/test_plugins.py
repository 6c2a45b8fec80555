"""The plugins add what they list and leave the rest of OpenMMLab as it is."""

import json
import subprocess
import sys

import pytest

SNAPSHOT = """
import json, sys
import mmengine, mmengine.config, mmengine.runner, mmengine.visualization, mmengine.registry as R
from mmengine.runner import CheckpointLoader

def entries():
    out = {}
    for key, registry in vars(R).items():
        if isinstance(registry, R.Registry):
            for scope in (registry, *registry.children.values()):
                for name, entry in scope.module_dict.items():
                    out[f'{key}[{scope.scope}.{name}]'] = f'{entry.__module__}.{entry.__name__}'
    for prefix, loader in CheckpointLoader._schemes.items():
        out[f'scheme {prefix!r}'] = f'{loader.__module__}.{loader.__name__}'
    if hasattr(mmengine.config.utils.load, 'cache_info'):
        out['mmengine.config.utils.load'] = 'cached'
    if 'mmcv._ext' in sys.modules:
        out['mmcv._ext'] = sys.modules['mmcv._ext'].__spec__.origin
    return out
"""
NO_REGISTRY = {'mmcv._ext', 'mmengine.config.utils.load'}
COMMON = {
    'MODELS[mmengine.MambaOut]',
    'MODELS[mmengine.EfficientVMamba]',
    'MODELS[mmengine.LocalVMamba]',
    'MODELS[mmengine.LocalVim]',
    'MODELS[mmengine.PlainMamba]',
    'MODELS[mmengine.S4NDConvNeXt]',
    'MODELS[mmengine.VMamba]',
    'MODELS[mmengine.ViT]',
    'MODELS[mmengine.Vim]',
    'OPTIM_WRAPPERS[mmengine.AmpOnCudaOptimWrapper]',
    'OPTIM_WRAPPERS[mmengine.FiniteOptimWrapper]',
    'OPTIM_WRAPPERS[mmengine.FiniteAmpOptimWrapper]',
    'OPTIM_WRAPPER_CONSTRUCTORS[mmengine.LayerDecayOptimWrapperConstructor]',
    'MODEL_WRAPPERS[mmengine.ShardedDataParallel]',
    'LOOPS[mmengine.ResumableEpochLoop]',
    'LOOPS[mmengine.ResumableIterLoop]',
    'DATASETS[mmengine.SeededDataset]',
    'DATA_SAMPLERS[mmengine.NumberedBatchSampler]',
    'FUNCTIONS[mmengine.ignore_signals]',
    'FUNCTIONS[mmengine.outlive_signals]',
    'FUNCTIONS[mmengine.seeded_collate]',
    'HOOKS[mmengine.SafeCheckpointHook]',
    'HOOKS[mmengine.ResumeHook]',
    'HOOKS[mmengine.StrictLoadHook]',
    'HOOKS[mmengine.CheckRunHook]',
    'HOOKS[mmengine.NumClassesHook]',
    'HOOKS[mmengine.SkippedSamplesHook]',
    'HOOKS[mmengine.CompileBackboneHook]',
    *NO_REGISTRY,
}


@pytest.mark.parametrize(
    ('plugin', 'own'),
    [
        (
            'mmdet_plugin',
            {
                'DATASETS[mmdet.CheckedCocoDataset]',
                'METRICS[mmdet.FastCocoMetric]',
                'MODELS[mmdet.MultiChannelDetDataPreprocessor]',
            },
        ),
        (
            'mmseg_plugin',
            {
                'DATASETS[mmseg.CheckedADE20KDataset]',
                'DATASETS[mmseg.FolderDataset]',
                'METRICS[mmseg.CheckedIoUMetric]',
                'METRICS[mmseg.DumpSegResults]',
                'MODELS[mmseg.MaskedDiceLoss]',
                'MODELS[mmseg.PortableFocalLoss]',
                'MODELS[mmseg.WeightedCrossEntropyLoss]',
                'VISUALIZERS[mmseg.ContiguousSegVisualizer]',
            },
        ),
        (
            'timm_plugin',
            {
                'DATASETS[mmengine.TimmDataset]',
                'DATA_SAMPLERS[mmengine.RepeatedAugSampler]',
                'FUNCTIONS[mmengine.collate_images]',
                'METRICS[mmengine.TopKAccuracy]',
                'MODELS[mmengine.BinaryCrossEntropy]',
                'MODELS[mmengine.ImageClassifier]',
                'MODELS[mmengine.ImagePreprocessor]',
                'MODELS[mmengine.LabelSmoothingCrossEntropy]',
                'MODELS[mmengine.SoftTargetCrossEntropy]',
                'PARAM_SCHEDULERS[mmengine.TimmCosineLR]',
            },
        ),
    ],
)
def test_importing_a_plugin_changes_the_entries_it_lists_and_no_others(plugin, own):
    others = dict(mmdet_plugin=['mmseg'], mmseg_plugin=['mmdet'], timm_plugin=['mmdet', 'mmseg'])[plugin]
    program = f'import sys; sys.modules |= dict.fromkeys({others!r})\n'  # one framework does without the others
    program += SNAPSHOT + f'before = entries(); import {plugin}; print(json.dumps([before, entries()]))'
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    before, after = json.loads(done.stdout.splitlines()[-1])
    ours = ('backbones', 'mmengine_plugin', plugin)
    changed = {k for k, v in before.items() if after[k] != v}
    added = {k for k, v in after.items() if v.startswith((*ours, 'timm.loss')) or k in NO_REGISTRY}
    schemes = {k for k in after if k.startswith('scheme ')}
    assert added | changed == COMMON | own | schemes
    assert changed == schemes - {"scheme 'hf-hub:'"}  # every reader that runs code is replaced


def test_what_windows_lacks_is_not_needed_for_an_import():
    """Windows has neither these signals and exit codes nor process groups."""
    program = 'import os, signal; del os.EX_TEMPFAIL, os.setpgrp, os.setsid, signal.SIGUSR1, signal.SIGUSR2\n'
    program += 'import mmdet_plugin, mmseg_plugin, mmengine_plugin.predict, mmengine_plugin.cli.error_messages'
    subprocess.run([sys.executable, '-c', program], check=True)


def test_backbones_need_neither_mmdet_nor_mmseg():
    program = 'import sys; sys.modules |= dict(mmdet=None, mmseg=None, mmcv=None); '
    program += "import backbones; backbones.MambaOut('femto')"
    subprocess.run([sys.executable, '-c', program], check=True)


def test_a_foreign_package_named_backbones_is_refused_by_its_path(tmp_path):
    (tmp_path / 'backbones').mkdir()
    (tmp_path / 'backbones/__init__.py').write_text('')
    done = subprocess.run([sys.executable, '-c', 'import mmdet_plugin'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert f'{tmp_path}/backbones/__init__.py comes first on sys.path' in done.stderr
