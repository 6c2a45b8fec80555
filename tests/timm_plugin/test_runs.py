"""Classifiers are trained, killed, resumed and tested by the same programs as detectors and segmentors."""

import copy
import json
import pickle
import shutil
import signal
from pathlib import Path

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from timm.data import create_dataset, create_loader

import timm_plugin
from backbones import MambaOut, UserError
from mmengine_plugin.cli.configs import load_config
from mmengine_plugin.engine.checkpoint_files import last_checkpoint
from mmengine_plugin.engine.compare_runs import differences, end_state
from tests.conftest import CLASSIFICATION
from tests.mmengine_plugin.engine.runs import train, train_in_a_process
from tests.mmengine_plugin.engine.test_resume_matrix import CHANGES

SHORT = {  # 4 batches and 2 steps in an epoch
    'model.backbone.arch': dict(_delete_=True, depths=(1, 1, 1, 1), dims=(4, 8, 8, 8)),
    'model.backbone.drop_path_rate': 0.2,
    'train_dataloader': dict(batch_size=2, num_workers=0, persistent_workers=False),
    'train_dataloader.dataset.transform.input_size': 32,
    'val_dataloader': dict(num_workers=0, persistent_workers=False),
    'val_dataloader.dataset.transform.input_size': 32,
    'param_scheduler': dict(end=2, warmup=1, cooldown=0),
    'train_cfg': dict(max_epochs=2, val_interval=2),
    'default_hooks.checkpoint': dict(by_epoch=False, interval=1),
    'default_hooks.logger.interval': 1,
}


def settings(work_dir: Path, **changes: object) -> Config:
    """The mini recipe with a model of a few thousand parameters and two epochs."""
    cfg = Config(Config.fromfile(CLASSIFICATION).to_dict(), format_python_code=False)
    cfg.merge_from_dict(copy.deepcopy(SHORT) | changes)
    cfg.test_dataloader = cfg.val_dataloader
    cfg.work_dir = str(work_dir)
    return cfg


@pytest.mark.parametrize(
    ('changes', 'control'),
    [
        ({}, 'another seed'),
        ({'train_dataloader': dict(batch_size=2, num_workers=2, persistent_workers=True)}, 'a lost step'),
        ({'optim_wrapper.type': 'FiniteAmpOptimWrapper', 'optim_wrapper.dtype': 'bfloat16'}, 'a flipped bit'),
    ],
    ids=['fp32', 'workers', 'bf16'],
)
def test_a_run_that_is_killed_between_the_batches_of_a_step_ends_as_an_uninterrupted_one(
    changes, control, mini_data, tmp_path, monkeypatch
):
    def run(name: str, code: int = 0, hooks: list = (), **others: object) -> str:
        cfg = settings(tmp_path / name, **changes)
        cfg.custom_hooks.extend(hooks)
        cfg.update(others)
        exit_code, output = train_in_a_process(tmp_path / f'{name}.log', cfg)
        assert exit_code == code, output
        return output

    monkeypatch.chdir(mini_data)
    run('whole')
    whole = end_state(tmp_path / 'whole')
    kill = dict(type='Send', number=signal.SIGKILL, moment='after_train_iter', iteration=5)
    run('run', -signal.SIGKILL, [kill])
    checkpoint = last_checkpoint(tmp_path / 'run')
    assert checkpoint.name == 'iter_5.pth'  # with the gradients of half a step
    shutil.copytree(tmp_path / 'run', tmp_path / 'control')
    run('run', resume=True)
    assert differences(whole, end_state(tmp_path / 'run')) == []
    if control == 'another seed':
        shutil.rmtree(tmp_path / 'control')
        run('control', randomness=dict(seed=1))
    else:
        content = torch.load(tmp_path / 'control' / checkpoint.name, weights_only=False)
        CHANGES[control](content)
        torch.save(content, tmp_path / 'control' / checkpoint.name)
        run('control', resume=True)
    assert any(name.startswith('state_dict') for name in differences(whole, end_state(tmp_path / 'control')))


def test_deits_sampler_trains(mini_data, tmp_path, monkeypatch):
    monkeypatch.chdir(mini_data)
    sampler = dict(_delete_=True, type='RepeatedAugSampler', num_repeats=3)
    train(settings(tmp_path, **{'train_dataloader.sampler': sampler}))
    assert (tmp_path / 'iter_8.pth').exists()


@pytest.mark.parametrize('option', ['prob=0.5', 'num_classes=6', 'mode=pair'])
def test_settings_of_mixup_can_be_set_on_the_command_line(option):
    key, value = option.split('=')
    cfg = load_config(str(CLASSIFICATION), {f'train_dataloader.collate_fn.mixup.{key}': value})
    assert cfg.train_dataloader.collate_fn.mixup[key] == value


@pytest.fixture(scope='module')
def published(tmp_path_factory) -> tuple[torch.nn.Module, Path]:
    """timm's femto with random weights and six classes, and its weights in a file like those that timm publishes."""
    torch.manual_seed(0)
    model = timm.create_model('mambaout_femto', num_classes=6).eval()
    torch.save(model.state_dict(), path := tmp_path_factory.mktemp('published') / 'femto.pth')
    return model, path


@pytest.mark.parametrize(
    ('options', 'size', 'crop'), [([], 224, 1.0), (['--img-size', 256, '--crop-pct', 0.9], 256, 0.9)]
)
def test_published_weights_get_timms_scores(options, size, crop, published, tool, mini_data, tmp_path):
    model, path = published
    root = mini_data / 'data/mini/imagenet'
    config = tmp_path / 'femto.py'
    config.write_text(
        "_base_ = __import__('timm_plugin').config('imagenet_mambaout_femto')\n"
        f'data = dict(num_workers=0, persistent_workers=False, dataset=dict(root={str(root)!r}))\n'
        'val_dataloader, test_dataloader, model = data, data, dict(num_classes=6)\n'
    )
    files = ['--out', tmp_path / 'out.pkl', '--json', tmp_path / 'scores.json', '--work-dir', tmp_path / 'work']
    done = tool('test.py', config, path, *files, *options)
    assert done.returncode == 0, done.stdout[-3000:]
    loader = create_loader(
        create_dataset('', root, 'val'),
        (3, size, size),
        99,
        crop_pct=crop,
        interpolation='bicubic',
        device=torch.device('cpu'),
    )
    ((images, labels),) = loader
    with torch.no_grad():
        logits = model(images)
    written = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    scores = torch.stack([sample['pred_scores'] for sample in written])
    torch.testing.assert_close(scores, logits.softmax(-1), rtol=0, atol=1e-6)
    assert [sample['gt_label'] for sample in written] == labels.tolist()
    top1, top5 = timm.utils.accuracy(logits, labels, topk=(1, 5))
    found = json.loads((tmp_path / 'scores.json').read_text())
    assert found == pytest.approx({'accuracy/top1': float(top1), 'accuracy/top5': float(top5)})
    assert f'accuracy/top1{"":12}' in done.stdout


def mini_model() -> torch.nn.Module:
    """The mini classifier with random weights."""
    return timm_plugin.classifier.ImageClassifier(
        **{
            k: v
            for k, v in Config.fromfile(CLASSIFICATION).model.items()
            if k not in ('type', 'data_preprocessor', 'loss')
        }
    )


def test_other_weights_get_other_scores(published, tool, mini_data):
    """A classifier's weights are loaded strictly."""
    options = ['--work-dir', mini_data / 'work', '--cfg-options', 'model.num_classes=6']
    done = tool('test.py', CLASSIFICATION, published[1], *options, cwd=mini_data)
    assert done.returncode == 1 and 'do not fit the model: ' in done.stdout, done.stdout[-3000:]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--show-dir', 'out'], '--show and --show-dir draw detections and label maps; tools/predict.py draws classes'),
        (['--real-labels', 'timm'], 'test_evaluator.real_labels has no val_00000004.jpg'),
        (['--real-labels', 'none.json'], '--real-labels none.json cannot be read'),
        (['--crop-pct', '90'], "argument --crop-pct: '90' is not a share above 0 and up to 1"),
        (['--crop-pct', '0'], "argument --crop-pct: '0' is not a share above 0 and up to 1"),
        (['--tta'], 'has no tta_model and tta_pipeline'),
        (['--cfg-options', 'model.num_classes=5'], 'head.fc.weight is (6, 768) instead of (5, 768)'),
    ],
)
def test_tests_that_cannot_be_run_are_refused(options, message, published, tool, mini_data, tmp_path):
    torch.save(mini_model().state_dict(), tmp_path / 'mini.pth')
    done = tool('test.py', CLASSIFICATION, tmp_path / 'mini.pth', '--work-dir', tmp_path / 'w', *options, cwd=mini_data)
    assert done.returncode == (2 if message.startswith('argument') else 1), done.stdout[-3000:]
    assert message in done.stdout, done.stdout[-3000:]


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'model.num_classes': 5}, 'collate_fn.mixup.num_classes is 6, but model.num_classes is 5: set both'),
        (
            {'model.num_classes': 5, 'train_dataloader.collate_fn.mixup.num_classes': 5},
            r'is 5, but train_dataloader.dataset has 6 classes \(banana, donut, .*set model.num_classes=6',
        ),
        ({'train_dataloader.batch_size': 3}, 'mixes pairs of images, .*batch_size=3 has an odd number: set an even'),
        ({'train_dataloader.collate_fn.mixup': None}, 'without mixup, set LabelSmoothingCrossEntropy'),
        (
            {'model.loss.type': 'LabelSmoothingCrossEntropy'},
            'mixed images have soft labels and need SoftTargetCrossEntropy',
        ),
        ({'train_dataloader.dataset.root': 'none'}, 'none does not exist: put train/<class>/ and val/<class>/ there'),
        ({'model.num_classes': 'abc'}, "model.num_classes is 'abc': set the number of classes, from 1"),
        ({'param_scheduler.cooldown': -3}, 'TimmCosineLR has cooldown=-3: set a number of epochs, from 0'),
        ({'param_scheduler.warmup': 'abc'}, "TimmCosineLR has warmup='abc': set a number of epochs, from 0"),
        ({'model.data_preprocessor.erasing.mode': 'foo'}, "erasing=.*foo.* cannot be used by timm's RandomErasing"),
        ({'model.data_preprocessor.erasing.probability': 'abc'}, "cannot be used by timm's RandomErasing"),
        ({'train_dataloader.collate_fn.mixup.mixup_alfa': 0.3}, "mixup.mixup_alfa.*did you mean 'mixup_alpha'"),
        ({'train_dataloader.collate_fn.mixup.mode': 'foo'}, "mixup.mode is 'foo': set batch, pair or elem"),
        ({'train_dataloader.collate_fn.mixup.mixup_alpha': -1}, 'mixup.mixup_alpha is -1: set a number from 0'),
        ({'default_hooks.checkpoint.save_best': 'top1'}, r"'top1', but the metrics .* \(did you mean 'accuracy/top1'"),
        ({'train_dataloader.batch_size': 8}, 'are less than a step of 2 batches of 8: lower'),
        (
            {'param_scheduler.warmup': 5},
            'TimmCosineLR has end=2 epochs, but warmup=5 and cooldown=0 leave none of them',
        ),
        (
            {'model.backbone': dict(_delete_=True, type='EfficientVMamba', arch='tiny')},
            'set model.backbone.norm_eval=False to train them',
        ),
    ],
)
def test_a_training_that_would_fail_late_is_refused(changes, message, mini_data, tmp_path, monkeypatch):
    monkeypatch.chdir(mini_data)
    with pytest.raises(UserError, match=message):
        train(settings(tmp_path, **changes))


def test_a_validation_that_lacks_a_class_is_refused(mini_data, tmp_path, monkeypatch):
    """timm numbers the classes of each folder by itself, so that all later ones would be mistaken for others."""
    shutil.copytree(mini_data / 'data/mini/imagenet', tmp_path / 'data/mini/imagenet')
    shutil.rmtree(tmp_path / 'data/mini/imagenet/val/donut')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match='val_dataloader.dataset has 5 classes .*add the folders of the classes'):
        train(settings(tmp_path / 'work'))
    shutil.copytree(tmp_path / 'data/mini/imagenet/val/kite', tmp_path / 'data/mini/imagenet/val/zebra')
    with pytest.raises(
        UserError, match='val_dataloader.dataset has other classes than train_dataloader.dataset: .*donut'
    ):
        train(settings(tmp_path / 'work'))


def test_a_checkpoint_is_not_tested_on_folders_of_other_names(mini_data, tmp_path, monkeypatch):
    """They would be the same number of classes, and others by their indices."""
    monkeypatch.chdir(mini_data)
    train(settings(tmp_path / 'work'))
    cfg = settings(tmp_path / 'test', load_from=str(tmp_path / 'work/iter_8.pth'))
    assert 'accuracy/top1' in Runner.from_cfg(cfg).test()
    shutil.copytree(mini_data / 'data/mini/imagenet', tmp_path / 'renamed')
    (tmp_path / 'renamed/val/banana').rename(tmp_path / 'renamed/val/zebra')
    cfg.test_dataloader.dataset.root = str(tmp_path / 'renamed')
    with pytest.raises(UserError, match='Rename its folders, or list the classes in its class_map'):
        Runner.from_cfg(cfg).test()


def test_a_checkpoint_starts_a_detector_of_the_same_backbone(mini_data, tmp_path, monkeypatch):
    monkeypatch.chdir(mini_data)
    train(settings(tmp_path / 'work'))
    weights = torch.load(tmp_path / 'work/iter_8.pth', weights_only=False)['state_dict']
    arch = {key: value for key, value in SHORT['model.backbone.arch'].items() if key != '_delete_'}
    backbone = MambaOut(arch, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'work/iter_8.pth')))
    first = backbone.stem.conv1.weight.clone()
    backbone.init_weights()
    assert torch.equal(backbone.stem.conv1.weight, weights['backbone.stem.conv1.weight'])
    assert not torch.equal(backbone.stem.conv1.weight, first)
