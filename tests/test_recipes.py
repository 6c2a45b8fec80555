"""An audit of the recipes: every setting is from the paper, its author or Swin's config, or is listed here as ours.

The paper (section 4) gives the framework, the heads, AdamW, the learning rate, the batch size, the number of epochs or
iterations, the image size and fp16. Its author (repository, issue #251) refers to Swin's configs for the rest, and adds
the output norms and, for ADE20K, the drop path rates.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from backbones.mambaout import ARCHS
from backbones.vmamba import ARCHS as VMAMBAS
from backbones.vmamba import our_names
from tests.backbones.test_vmamba import SIZES as OFFICIAL_SIZES
from tests.backbones.test_vmamba import official_shapes
from tests.conftest import CONFIGS, ROOT, SWIN
from tests.test_configs import own_recipes

SIZES = ['femto', 'kobe', 'tiny', 'small', 'base']
# the top-level keys that a Runner reads; other names in a config only help to write these
SETTINGS = (
    *('model', 'optim_wrapper', 'param_scheduler', 'auto_scale_lr', 'default_hooks', 'custom_hooks', 'env_cfg'),
    *(f'{split}_{part}' for split in ('train', 'val', 'test') for part in ('dataloader', 'cfg', 'evaluator')),
    *('log_processor', 'load_from', 'resume', 'randomness', 'tta_model', 'tta_pipeline'),
)

PAPERS = {
    'mask_rcnn': {
        'model.type': 'MaskRCNN',
        'optim_wrapper.optimizer.type': 'AdamW',
        'optim_wrapper.optimizer.lr': 1e-4,
        'auto_scale_lr.base_batch_size': 16,
        'train_cfg.max_epochs': 12,
        'train_dataloader.dataset.pipeline.2.scale': [1333, 800],
    },
    'upernet': {
        'model.decode_head.type': 'UPerHead',
        'optim_wrapper.optimizer.type': 'AdamW',
        'optim_wrapper.optimizer.lr': 1e-4,
        'auto_scale_lr.base_batch_size': 16,
        'train_cfg.max_iters': 160000,
    },
}

ABSENT = 'absent'
CHECKED = 'ours: the same data, checked before training starts'
WHOLE = 'ours: an image that cannot be loaded is an error; mmengine would replace it by another'
ZERO = 'ours: the same, but set in the data set, so that other data sets need no other pipelines'
SCORED = 'ours: the same scores, counted faster'
NAMED = 'ours: the same scores, and a warning that names the classes without a pixel'
SAFE = 'ours: the same training, which can be killed at any time and resumed bit for bit'
KEPT = 'ours: which checkpoints are kept, not how the model trains'
NORMS = 'ours: norms are exempt by their type, not by their name; a test below lists the parameters that differ'
NONE = 'MambaOut has no such parameter'
DECAY = 'optim_wrapper.paramwise_cfg'
BOTH = {  # setting: (Swin's value, ours, source or reason)
    'optim_wrapper.type': ('OptimWrapper', 'AmpOnCudaOptimWrapper', 'the paper: fp16'),
    f'{DECAY}.norm_decay_mult': (ABSENT, 0.0, NORMS),
    f'{DECAY}.custom_keys.norm.decay_mult': (0.0, ABSENT, NORMS),
    f'{DECAY}.custom_keys.absolute_pos_embed.decay_mult': (0.0, ABSENT, NONE),
    f'{DECAY}.custom_keys.relative_position_bias_table.decay_mult': (0.0, ABSENT, NONE),
    'default_hooks.checkpoint.max_keep_ckpts': (ABSENT, 2, KEPT),
    'default_hooks.checkpoint.rule': (ABSENT, 'greater', KEPT),
    'custom_hooks.0.type': (ABSENT, 'StrictLoadHook', 'ours: refuses checkpoints that do not fit'),
    'custom_hooks.1.type': (ABSENT, 'NumClassesHook', 'ours: refuses heads that do not fit the data'),
    'custom_hooks.3.type': (ABSENT, 'ResumeHook', SAFE),
    'custom_hooks.4.type': (ABSENT, 'CheckRunHook', 'ours: refuses runs that would fail late'),
    'default_hooks.checkpoint.type': ('CheckpointHook', 'SafeCheckpointHook', SAFE),
    'train_dataloader.worker_init_fn.type': (ABSENT, 'ignore_signals', SAFE),
    'val_dataloader.worker_init_fn.type': (ABSENT, 'ignore_signals', SAFE),
    'test_dataloader.worker_init_fn.type': (ABSENT, 'ignore_signals', SAFE),
    'custom_hooks.2.type': (ABSENT, 'SkippedSamplesHook', 'ours: lists the samples that skip_bad_samples left out'),
}
DIFFERENCES = {
    'mask_rcnn': BOTH
    | {
        'train_dataloader.dataset.type': ('CocoDataset', 'CheckedCocoDataset', CHECKED),
        'val_dataloader.dataset.type': ('CocoDataset', 'CheckedCocoDataset', CHECKED),
        'test_dataloader.dataset.type': ('CocoDataset', 'CheckedCocoDataset', CHECKED),
        'val_evaluator.type': ('CocoMetric', 'FastCocoMetric', SCORED),
        'test_evaluator.type': ('CocoMetric', 'FastCocoMetric', SCORED),
        'train_cfg.type': ('EpochBasedTrainLoop', 'ResumableEpochLoop', SAFE),
        'default_hooks.checkpoint.save_best': (ABSENT, 'coco/bbox_mAP', KEPT),
    },
    'upernet': BOTH
    | {
        'optim_wrapper.optimizer.lr': (6e-5, 1e-4, 'the paper'),
        'auto_scale_lr.enable': (ABSENT, False, 'as in detection'),
        'auto_scale_lr.base_batch_size': (ABSENT, 16, 'the paper'),
        'train_dataloader.dataset.type': ('ADE20KDataset', 'CheckedADE20KDataset', CHECKED),
        'val_dataloader.dataset.type': ('ADE20KDataset', 'CheckedADE20KDataset', CHECKED),
        'test_dataloader.dataset.type': ('ADE20KDataset', 'CheckedADE20KDataset', CHECKED),
        'val_evaluator.type': ('IoUMetric', 'CheckedIoUMetric', NAMED),
        'test_evaluator.type': ('IoUMetric', 'CheckedIoUMetric', NAMED),
        'train_dataloader.dataset.pipeline.1.reduce_zero_label': (True, ABSENT, ZERO),
        'val_dataloader.dataset.pipeline.2.reduce_zero_label': (True, ABSENT, ZERO),
        'test_dataloader.dataset.pipeline.2.reduce_zero_label': (True, ABSENT, ZERO),
        'val_dataloader.dataset.test_mode': (ABSENT, True, WHOLE),
        'test_dataloader.dataset.test_mode': (ABSENT, True, WHOLE),
        'train_cfg.type': ('IterBasedTrainLoop', 'ResumableIterLoop', SAFE),
        'default_hooks.checkpoint.save_best': (ABSENT, 'mIoU', KEPT),
    },
}
DROP_PATH = {  # Swin-T's is 0.2 and 0.3
    'mask_rcnn': dict(femto=0.025, kobe=0.025, tiny=0.2, small=0.4, base=0.6),  # ours: the authors' on ImageNet
    'upernet': dict(
        femto=0.025,  # ours: the authors' on ImageNet
        kobe=0.025,  # ours, likewise
        tiny=0.3,  # the author
        small=0.4,  # the author: 0.3 or 0.4
        base=0.6,  # the author
    ),
}


CHANNELS = ('model.neck.in_channels', 'model.decode_head.in_channels', 'model.auxiliary_head.in_channels')


def flat(value: object, name: str = '') -> dict[str, object]:
    """The settings of a config by their dotted keys; a list of numbers is one setting."""
    if isinstance(value, dict) and value:
        items = value.items()
    elif isinstance(value, list | tuple) and value and isinstance(value[0], dict | list | tuple):
        items = enumerate(value)
    else:
        return {name: list(value) if isinstance(value, tuple) else value}
    return {k: v for key, part in items for k, v in flat(part, f'{name}.{key}' if name else str(key)).items()}


def settings(path: Path) -> dict[str, object]:
    """The settings that a Runner reads, without mmengine's ``_scope_`` and the backbone's, except for drop path."""
    cfg = {key: value for key, value in Config.fromfile(path).to_dict().items() if key in SETTINGS}
    keep = 'model.backbone.drop_path_rate'
    return {
        k: v
        for k, v in flat(cfg).items()
        if not k.endswith('_scope_') and (not k.startswith('model.backbone.') or k == keep)
    }


def config(head: str, size: str) -> Path:
    """The config of a size of MambaOut."""
    return ROOT / f'configs/{head}_mambaout_{size}.py'


@pytest.fixture
def official_config(monkeypatch) -> Callable[[str, str], Path]:
    """A function of head and size, like :func:`config`, for VMamba's own recipe; the environment names the size."""

    def choose(head: str, size: str) -> Path:
        monkeypatch.setenv('VMAMBA_SIZE', size)
        return ROOT / f'configs/vmamba/{head}_vmamba_official.py'

    return choose


@cache
def all_settings(name: str) -> dict[str, object]:
    return flat(Config.fromfile(ROOT / f'configs/{name}.py').to_dict())


def differences(name: str, other: str) -> set[str]:
    """The settings in which two configs differ."""
    a, b = all_settings(name), all_settings(other)
    return {key for key in a | b if a.get(key, ABSENT) != b.get(key, ABSENT)}


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_sets_its_backbone_and_channel_lists_and_nothing_else(name):
    found = differences(name, '_base_/' + ('mask_rcnn_1x' if 'mask_rcnn' in name else 'upernet_160k'))
    assert {key for key in found if not key.startswith('model.backbone.')} <= set(CHANNELS)


PARAMWISE = 'optim_wrapper.paramwise_cfg.'
OWN_RECIPES = {  # prefixes of the settings in which each model's own recipe differs from MambaOut's
    'vmamba/mask_rcnn_vmamba_official': ('optim_wrapper.type', PARAMWISE),
    'vmamba/upernet_vmamba_official': ('optim_wrapper.type', 'optim_wrapper.optimizer.lr', PARAMWISE),
    'vim/upernet_vim_official': (
        *('model.decode_head.channels', 'model.test_cfg.', 'train_dataloader.batch_size', 'optim_wrapper.'),
        *('auto_scale_lr.base_batch_size', 'param_scheduler.1.end', 'train_cfg.', 'default_hooks.checkpoint.interval'),
    ),
    'local_mamba/mask_rcnn_local_vmamba_official': (PARAMWISE,),
    'local_mamba/upernet_local_vmamba_official': ('optim_wrapper.type', 'optim_wrapper.optimizer.lr', PARAMWISE),
    'local_mamba/upernet_local_vim_official': (
        *('model.auxiliary_head.in_index', 'optim_wrapper.type', 'optim_wrapper.optimizer.lr', PARAMWISE),
    ),
    'plain_mamba/upernet_plain_mamba_official': (
        *('model.auxiliary_head.in_index', 'optim_wrapper.type', 'optim_wrapper.optimizer.lr', PARAMWISE),
        *('val_dataloader.dataset.pipeline.', 'test_dataloader.dataset.pipeline.'),
    ),
    'efficient_vmamba/mask_rcnn_efficient_vmamba_official': (
        *('model.neck.out_channels', 'model.rpn_head.', 'model.roi_head.', 'train_dataloader.batch_size', PARAMWISE),
    ),
    'efficient_vmamba/upernet_efficient_vmamba_official': (
        *('model.decode_head.channels', 'optim_wrapper.type', 'optim_wrapper.optimizer.lr', PARAMWISE),
    ),
}


@pytest.mark.parametrize(('name', 'variable', 'size'), own_recipes())
def test_a_models_own_recipe_differs_from_mambaouts_in_listed_settings_only(name, variable, size, monkeypatch):
    monkeypatch.setenv(variable, size)
    theirs, ours = (settings(ROOT / f'configs/{path}.py') for path in (name, name.removesuffix('official') + size))
    found = {key for key in theirs | ours if theirs.get(key, ABSENT) != ours.get(key, ABSENT)}
    found = {key for key in found if not key.startswith('model.backbone.')}
    assert found and all(key.startswith(OWN_RECIPES[name]) for key in found)
    used = {prefix for prefix in OWN_RECIPES[name] if any(key.startswith(prefix) for key in found)}
    # one size of these has the usual heads, or fp16 like MambaOut
    optional = {'model.neck.out_channels', 'model.rpn_head.', 'model.roi_head.', 'model.decode_head.channels'}
    assert set(OWN_RECIPES[name]) - used <= optional | {'optim_wrapper.type'}


@pytest.mark.parametrize('name', [name for name in CONFIGS if name.endswith(('_causal', '_ssm'))])
def test_causal_attention_and_the_ssm_are_one_argument_of_the_backbone_each(name):
    other, _, argument = name.rpartition('_')
    assert differences(name, other) == {f'model.backbone.{argument}'}


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('head', SWIN)
def test_every_difference_from_swins_recipe_is_listed(head, size):
    theirs, ours = settings(SWIN[head]), settings(config(head, size))
    found = {
        key: (theirs.get(key, ABSENT), ours.get(key, ABSENT))
        for key in theirs | ours
        if theirs.get(key, ABSENT) != ours.get(key, ABSENT)
    }
    expected = {key: (swins, our) for key, (swins, our, _) in DIFFERENCES[head].items()}
    widths, swins = list(ARCHS[size].dims), [96, 192, 384, 768]
    if head == 'mask_rcnn':
        expected['model.neck.in_channels'] = (swins, widths)
    else:
        expected['model.decode_head.in_channels'] = (swins, widths)
        expected['model.auxiliary_head.in_channels'] = (swins[2], widths[2])
    expected['model.backbone.drop_path_rate'] = (theirs['model.backbone.drop_path_rate'], DROP_PATH[head][size])
    assert found == {key: values for key, values in expected.items() if values[0] != values[1]}


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('head', SWIN)
def test_settings_that_the_paper_gives_have_its_values(head, size):
    ours = settings(config(head, size))
    assert {key: ours[key] for key in PAPERS[head]} == PAPERS[head]
    backbone = Config.fromfile(config(head, size)).model.backbone
    assert set(backbone) == {'type', 'arch', 'drop_path_rate', 'init_cfg'}  # the rest, such as output norms, is default
    assert (backbone.type, backbone.arch) == ('MambaOut', size)
    assert backbone.init_cfg.checkpoint.split('@')[0] == f'hf-hub:timm/mambaout_{size}.in1k'  # ImageNet-1K weights
    assert 'layer_decay' not in str(ours)  # the author: no layer-wise decay
    assert 8 * ours['train_dataloader.batch_size'] == ours['auto_scale_lr.base_batch_size']  # 8 processes: 16


def build(path: Path) -> tuple[Config, torch.nn.Module]:
    """A config and its model, without weights."""
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return cfg, MODELS.build(cfg.model)


def decays(model: torch.nn.Module, optimizer: dict, paramwise: dict) -> dict[str, float]:
    """The weight decay of each parameter."""
    wrapper = dict(type='OptimWrapper', optimizer=optimizer, paramwise_cfg=paramwise)
    groups = build_optim_wrapper(model, wrapper).optimizer.param_groups
    by_parameter = {id(p): group['weight_decay'] for group in groups for p in group['params']}
    return {name: by_parameter[id(p)] for name, p in model.named_parameters()}


def norms_of(model: torch.nn.Module) -> set[str]:
    """The names of the parameters of norms."""
    kinds = (torch.nn.LayerNorm, torch.nn.modules.batchnorm._BatchNorm)
    return {f'{m}.{k}' for m, module in model.named_modules() if isinstance(module, kinds) for k in ('weight', 'bias')}


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('head', SWIN)
def test_every_parameter_but_those_of_norms_has_weight_decay(head, size):
    (cfg, model), swin = build(config(head, size)), Config.fromfile(SWIN[head])
    optimizer = cfg.optim_wrapper.optimizer
    ours, swins = (decays(model, optimizer, c.optim_wrapper.paramwise_cfg) for c in (cfg, swin))
    norms, decay = norms_of(model), optimizer.weight_decay
    assert decay == swin.optim_wrapper.optimizer.weight_decay
    assert ours == {name: 0.0 if name in norms else decay for name in ours}
    # Swin's rule finds norms by the name 'norm', which the batch norms of UperNet's heads do not have
    differing = {name for name in ours if ours[name] != swins[name]}
    assert differing == {name for name in norms if '.bn.' in name}
    assert bool(differing) == (head == 'upernet')


@pytest.mark.parametrize(
    'path', ['vmamba/{}_vmamba_tiny.py', 'vmamba/{}_vmamba_tiny_s1l8.py', '{}_mambaout_tiny_ssm.py']
)
@pytest.mark.parametrize('head', SWIN)
def test_every_parameter_of_an_s6_has_weight_decay(head, path):
    cfg, model = build(ROOT / 'configs' / path.format(head))
    found = decays(model, cfg.optim_wrapper.optimizer, cfg.optim_wrapper.paramwise_cfg)
    exempt = {name for name, decay in found.items() if not decay}
    assert exempt == norms_of(model)
    for part in ('.A_log', '.D', '.dt_proj.bias'):  # they have it in VMamba's recipe, too, which is tested below
        assert any(name.endswith(part) for name in found) and not any(name.endswith(part) for name in exempt)


@pytest.mark.parametrize('size', VMAMBAS)
@pytest.mark.parametrize('head', SWIN)
def test_vmambas_own_recipe_is_swins(head, size, official_config):
    theirs, ours = settings(SWIN[head]), settings(official_config(head, size))
    found = {key: ours.get(key, ABSENT) for key in theirs | ours if theirs.get(key, ABSENT) != ours.get(key, ABSENT)}
    same = ('optim_wrapper.type', 'optim_wrapper.optimizer.lr', f'{DECAY}.norm_decay_mult', f'{DECAY}.custom_keys.norm')
    expected = {key: our for key, (_, our, _) in DIFFERENCES[head].items() if not key.startswith(same)}
    widths = list(VMAMBAS[size].dims)
    expected |= dict(zip(CHANNELS[:1] if head == 'mask_rcnn' else CHANNELS[1:], (widths, widths[2]), strict=False))
    # VMamba's repository, {detection,segmentation}/configs/vssm*: configs of the vanilla sizes inherit Swin-T's value
    expected['model.backbone.drop_path_rate'] = (
        theirs['model.backbone.drop_path_rate']
        if VMAMBAS[size].vanilla
        else dict(tiny=0.2, small=0.3, base=0.6)[size.split('_')[0]]
    )
    assert found == {key: value for key, value in expected.items() if theirs.get(key, ABSENT) != value}


@pytest.mark.parametrize('size', ['tiny', 'tiny_s1l8'])
@pytest.mark.parametrize('head', SWIN)
def test_vmambas_own_recipe_exempts_parameters_with_norm_in_their_official_names(head, size, official_config):
    cfg, model = build(official_config(head, size))
    found = decays(model, cfg.optim_wrapper.optimizer, cfg.optim_wrapper.paramwise_cfg)
    shapes = official_shapes(*OFFICIAL_SIZES[size], detector=True)
    official = {name: torch.empty(shape, device='meta') for name, shape in shapes.items()}
    exempt = {f'backbone.{ours}' for name in official if 'norm' in name for ours in our_names({name: official[name]})}
    assert {name for name, decay in found.items() if not decay} == exempt


@pytest.mark.parametrize('name', ['{}_mambaout_tiny', 'mini/{}_mambaout_mini'])
def test_faster_rcnn_is_mask_rcnn_without_masks(name):
    """Its settings are those of Mask R-CNN, apart from these."""
    masks, boxes = (settings(ROOT / f'configs/{name.format(kind)}.py') for kind in ('mask_rcnn', 'faster_rcnn'))
    changed = {key for key in masks.keys() | boxes.keys() if masks.get(key, ABSENT) != boxes.get(key, ABSENT)}
    heads = {
        key for key in changed if key.startswith(('model.roi_head.mask_head', 'model.roi_head.mask_roi_extractor'))
    }
    assert boxes['model.type'] == 'FasterRCNN' and 'model.type' in changed and len(heads) > 5
    assert not any(boxes.get(f'model.roi_head.mask_{part}') for part in ('head', 'head.type', 'roi_extractor.type'))
    pipelines = {f'{split}_dataloader.dataset.pipeline' for split in ('train', 'val', 'test')}
    loading = {key for key in changed if key.startswith(tuple(pipelines))}
    # backend_args is None in both; the base has it for the full size
    assert {key.split('.')[-1] for key in loading} - {'backend_args'} == {'with_mask'}
    rest = changed - heads - loading - {'model.type', 'val_evaluator.metric', 'test_evaluator.metric'}
    # mmdet's own Faster R-CNN, of which the mini one has nothing, also differs in one rule of its box head
    rules = {'assigner.match_low_quality', 'mask_size'}
    masks_only = {'model.data_preprocessor.pad_mask', 'model.test_cfg.rcnn.mask_thr_binary'}
    assert rest == (set() if 'mini' in name else masks_only | {f'model.train_cfg.rcnn.{rule}' for rule in rules})
    assert boxes['val_evaluator.metric'] == boxes['test_evaluator.metric'] == 'bbox'
