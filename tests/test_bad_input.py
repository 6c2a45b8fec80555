"""Each mistake of a user is answered by one message that names the cause and the fix, and by exit code 1."""

import json
import shutil

import pytest
import torch
from mmengine.config import Config

from backbones import UserError
from mmengine_plugin.cli.cfg_options import check_option
from mmengine_plugin.cli.launching import RANK_VARIABLES, join_processes
from tests.conftest import DETECTION, FAST, SEGMENTATION


def refuses(done, *words: str) -> None:
    """Check that the program ended with one short message that contains the words."""
    assert done.returncode == 1, done.stdout[-3000:]
    assert 'Traceback' not in done.stdout
    message = done.stdout[done.stdout.rindex('error: ') :]
    assert len(message) < 700 and message.count('\n') == 1, message
    for word in words:
        assert word in message, message


def child(tmp_path, text: str, base=DETECTION):
    """A config of a user's own, outside the repository."""
    path = tmp_path / 'mine.py'
    path.write_text(f'_base_ = {str(base)!r}\n{text}\n')
    return path


def test_a_config_that_is_not_there(tool):
    refuses(tool('train.py', 'configs/mask_rcnn_mambaout_tinny.py'), 'does not exist', 'mask_rcnn_mambaout_tiny.py')


def test_a_folder_in_place_of_a_config(tool):
    refuses(tool('check_dataset.py', 'configs'), 'configs is a folder: name a config file in it')


def test_a_base_that_is_not_there(tool, tmp_path):
    path = child(tmp_path, '', base='no_such_base.py')
    refuses(tool('train.py', path), f'config {path}: its base', 'no_such_base.py does not exist')


@pytest.mark.parametrize(('config', 'what'), [(DETECTION, 'annotation file'), (SEGMENTATION, 'img_path')])
def test_a_data_folder_that_is_not_there(tool, tmp_path, config, what):
    done = tool('train.py', config, '--work-dir', tmp_path / 'w', cwd=tmp_path)
    refuses(done, what, 'data/mini', 'is not there', str(tmp_path), 'data_root')


def test_class_names_that_match_nothing(tool, tmp_path, mini_data):
    classes = "metainfo=dict(classes=('stopsign', 'sports ball', 'kite', 'banana', 'pizza', 'donut'))"
    path = child(tmp_path, f'train_dataloader = dict(dataset=dict({classes}))')
    done = tool('train.py', path, '--work-dir', tmp_path / 'w', cwd=mini_data)
    refuses(
        done,
        'instances_train2017.json: class',
        'it has no category',
        "'stopsign' (did you mean 'stop sign'?)",
        'metainfo',
    )


def test_a_data_set_without_any_object(tool, tmp_path, mini_data):
    shutil.copytree(mini_data / 'data', tmp_path / 'data')
    file = tmp_path / 'data/mini/coco/annotations/instances_train2017.json'
    file.write_text(json.dumps(json.loads(file.read_text()) | dict(annotations=[])))
    done = tool('train.py', DETECTION, '--work-dir', tmp_path / 'w', cwd=tmp_path)
    refuses(done, 'none of its 8 images is left', 'instances_train2017.json', 'filter_empty_gt')


def test_a_label_map_that_is_missing(tool, tmp_path, mini_data):
    shutil.copytree(mini_data / 'data', tmp_path / 'data')
    (tmp_path / 'data/mini/ade20k/annotations/training/ADE_train_00000003.png').unlink()
    done = tool('train.py', SEGMENTATION, '--work-dir', tmp_path / 'w', cwd=tmp_path)
    refuses(done, 'lacks the label maps of 1 of 8 images', 'ADE_train_00000003.png')


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ("model = dict(backbone=dict(arch='mambaout_tiny'))", ["did you mean 'tiny'"]),
        ('model = dict(backbone=dict(out_indices=(1, 2, 3, 4)))', ['out_indices=(1, 2, 3, 4)', 'from 0 to 3']),
        ('model = dict(backbone=dict(init_cfg=dict(type="Pretrained")))', ['init_cfg=', '_delete_=True']),
        ("custom_imports = dict(imports=['json'])", ['MambaOut is not registered: add custom_imports', 'mmdet_plugin']),
        (
            "custom_imports = dict(imports=['no_such_module'], allow_failed_imports=False)",
            ['No module named', 'no_such_module'],
        ),
        (
            "model = dict(backbone=dict(type='MambaOot'))",
            ["model.backbone.type: MambaOot is not registered in mmdet::model (did you mean 'MambaOut'?)"],
        ),
        ('runner = dict(max_epochs=7)', ['runner.max_epochs -> train_cfg=dict(max_epochs=7)']),
        (
            "source = dict(_delete_=True, type='Pretrained', checkpoint='hf-hub:timm/mambaout_tiny.in1k')\n"
            'model = dict(backbone=dict(init_cfg=source))',
            ['cannot download the weights hf-hub:timm/mambaout_tiny.in1k', 'init_cfg.checkpoint=', 'init_cfg=None'],
        ),
    ],
)
def test_a_config_with_a_mistake(tool, tmp_path, mini_data, text, words, monkeypatch):
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path / 'empty'))
    path = child(tmp_path, text)
    refuses(tool('train.py', path, '--work-dir', tmp_path / 'w', cwd=mini_data), *words)


@pytest.mark.parametrize(
    ('option', 'words'),
    [
        ('model.backbone.drop_path_rat=0.1', ["'drop_path_rat' exists nowhere", "did you mean 'drop_path_rate'"]),
        ('optim_wrapper.accumulativ_counts=2', ["did you mean 'accumulative_counts'"]),
        ('trian_cfg.max_epochs=1', ["'trian_cfg' exists nowhere", "did you mean 'train_cfg'"]),
        ('train_dataloader.batchsize=1', ["did you mean 'batch_size'"]),
        ('train_dataloader.dataset.indexes=4', ["did you mean 'indices'"]),
        ('param_scheduler.5.end=4', ["'5' must be an index below 2"]),
        ('lr=1', ["'lr' exists nowhere"]),
        ('model.backbone.max_epochs=3', ["'max_epochs' exists nowhere"]),
        ('model.test_cfg.rcnn.score_thrs=0.1', ["did you mean 'score_thr'"]),
    ],
)
def test_an_option_that_exists_nowhere(tool, option, words):
    refuses(tool('train.py', DETECTION, '--cfg-options', option), option.split('=')[0], *words)


@pytest.mark.parametrize(
    'option',
    [
        'randomness.seed=1',
        'compile=False',
        'find_unused_parameters=True',
        'model_wrapper_cfg.type=MMDistributedDataParallel',
        'optim_wrapper.clip_grad.norm_type=2',
        'optim_wrapper.accumulative_counts=2',
        'optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult=0.1',
        'model.backbone.with_cp=True',
        'model.test_cfg.rcnn.nms.split_thr=5000',
        'custom_hooks.0.priority=LOW',
        'default_hooks.ema.type=EMAHook',
        'train_dataloader.dataset.indices=4',
        'train_dataloader.pin_memory=True',
        'val_evaluator.proposal_nums=[100,1,10]',
        'val_evaluator.backend=pycocotools',
        'train_dataloader.worker_init_fn.type=outlive_signals',
    ],
)
def test_an_option_that_only_the_class_has_is_accepted(option):
    check_option(Config.fromfile(DETECTION), option.split('=')[0])


@pytest.mark.parametrize('option', ['foo', 'train_cfg.max_epochs=[1,2'])
def test_an_option_that_is_not_a_pair(tool, option):
    done = tool('train.py', DETECTION, '--cfg-options', option)
    assert done.returncode == 2 and 'Traceback' not in done.stdout and 'KEY=VALUE pairs' in done.stdout


def test_an_option_of_another_type_than_the_config_has(tool):
    done = tool('train.py', DETECTION, '--cfg-options', 'model.backbone.init_cfg.type=Pretrained')
    refuses(done, '--cfg-options model.backbone.init_cfg.type', 'init_cfg', 'NoneType')


def test_a_reinitialisation_that_names_nothing(tool, tmp_path, mini_data, checkpoint):
    hook = "dict(type='StrictLoadHook', reinitialise='roi_head.bbox_head.fcs')"
    path = child(tmp_path, f'custom_hooks = [{hook}]\nload_from = {str(checkpoint)!r}')
    done = tool('train.py', path, '--work-dir', tmp_path, '--cfg-options', *FAST, cwd=mini_data)
    refuses(done, 'no parameter of the model begins with', 'roi_head.bbox_head.fcs')


@pytest.mark.parametrize('launcher', RANK_VARIABLES)
def test_a_launcher_without_its_environment(tool, launcher):
    refuses(
        tool('train.py', DETECTION, '--launcher', launcher),
        f'--launcher {launcher}: ',
        'is not set; start it by tools/dist_*.sh',
    )


def test_more_processes_than_gpus(monkeypatch):
    """The test simulates one GPU: this machine may have none."""
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    monkeypatch.setattr('torch.cuda.device_count', lambda: 1)
    for name, value in zip(RANK_VARIABLES['pytorch'], '121', strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match='2 or more processes were started on this machine, and it has 1 GPUs'):
        join_processes(Config(dict(launcher='pytorch')))


def test_a_work_directory_that_cannot_be_written(tool, tmp_path):
    (tmp_path / 'file').touch()
    done = tool('train.py', DETECTION, '--work-dir', tmp_path / 'file/work')
    refuses(done, f'cannot write to {tmp_path}/file/work: Not a directory')


@pytest.mark.parametrize(('classes', 'count'), [("('kite',)", 1), ("('stop sign', 'kite', 'donut')", 3)])
def test_heads_of_another_number_of_classes_than_the_data(tool, tmp_path, mini_data, classes, count):
    path = child(tmp_path, f'train_dataloader = dict(dataset=dict(metainfo=dict(classes={classes})))')
    done = tool('train.py', path, '--work-dir', tmp_path / 'w', cwd=mini_data)
    refuses(done, 'roi_head.bbox_head.num_classes is 6', f'has {count} classes', 'num_classes in the heads')


def test_a_list_of_hooks_without_ours_does_not_switch_off_the_check_of_classes(tool, tmp_path, mini_data):
    path = child(
        tmp_path, "custom_hooks = [dict(type='EMAHook')]\nmodel = dict(roi_head=dict(bbox_head=dict(num_classes=5)))"
    )
    done = tool('train.py', path, '--work-dir', tmp_path / 'w', cwd=mini_data)
    refuses(done, 'roi_head.bbox_head.num_classes is 5', 'has 6 classes')


def test_a_single_class_without_its_comma(tool, tmp_path, mini_data):
    path = child(tmp_path, "train_dataloader = dict(dataset=dict(metainfo=dict(classes=('kite'))))")
    refuses(tool('train.py', path, '--work-dir', tmp_path / 'w', cwd=mini_data), "classes=('kite',)")


def test_class_names_that_ade20k_does_not_have(tool, tmp_path, mini_data):
    path = child(tmp_path, "train_dataloader = dict(dataset=dict(metainfo=dict(classes=('wal', 'sky'))))", SEGMENTATION)
    done = tool('train.py', path, '--work-dir', tmp_path / 'w', cwd=mini_data)
    refuses(done, "ADE20K has no class 'wal' (did you mean 'wall'?)")


def test_an_annotation_file_of_the_metric_that_is_not_there(tool, tmp_path, mini_data):
    path = child(tmp_path, "val_evaluator = dict(ann_file='data/elsewhere.json')")
    refuses(
        tool('train.py', path, '--work-dir', tmp_path / 'w', cwd=mini_data),
        'data/elsewhere.json: missing annotation file',
    )


def test_images_that_are_missing_and_annotations_cut_off(tool, tmp_path, mini_data):
    shutil.copytree(mini_data / 'data', tmp_path / 'data')
    (tmp_path / 'data/mini/coco/train2017/000000000002.jpg').unlink()
    done = tool('train.py', DETECTION, '--work-dir', tmp_path / 'w', cwd=tmp_path)
    refuses(done, 'lacks 1 of the 8 images', '000000000002.jpg')
    annotations = tmp_path / 'data/mini/coco/annotations/instances_train2017.json'
    annotations.write_text(annotations.read_text()[:1000])
    done = tool('train.py', DETECTION, '--work-dir', tmp_path / 'w', cwd=tmp_path)
    refuses(done, 'instances_train2017.json: damaged annotation file: it is damaged or not JSON')


def test_a_checkpoint_that_is_not_there(tool, mini_data, tmp_path):
    for done in (
        tool('test.py', DETECTION, 'none.pth', '--work-dir', tmp_path, cwd=mini_data),
        tool('train.py', DETECTION, '--resume', 'none.pth', '--work-dir', tmp_path, cwd=mini_data),
    ):
        refuses(done, 'none.pth')


@pytest.fixture(scope='module')
def checkpoint(mini_data, tmp_path_factory):
    """A checkpoint that fits the mini detector, untrained."""
    from mmengine.registry import MODELS, init_default_scope

    cfg = Config.fromfile(DETECTION)
    init_default_scope(cfg.default_scope)
    path = tmp_path_factory.mktemp('checkpoint') / 'good.pth'
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta={}), path)
    return path


def test_a_truncated_checkpoint(tool, mini_data, checkpoint, tmp_path):
    (bad := tmp_path / 'cut.pth').write_bytes(checkpoint.read_bytes()[:100_000])
    done = tool('test.py', DETECTION, bad, '--work-dir', tmp_path, cwd=mini_data)
    refuses(done, str(bad), '100,000 bytes', 'damaged, cut off')


def test_a_checkpoint_of_another_size(tool, mini_data, checkpoint, tmp_path):
    # this list of hooks replaces ours, and with it the check
    path = child(
        tmp_path, "custom_hooks = [dict(type='EMAHook')]\nmodel = dict(backbone=dict(arch=dict(depths=(1, 1, 2, 1))))"
    )
    done = tool('test.py', path, checkpoint, '--work-dir', tmp_path, cwd=mini_data)
    refuses(done, str(checkpoint), 'unexpected backbone.stages.2.blocks.2', 'another size')


def test_options_that_exclude_each_other_or_need_a_gpu(tool):
    refuses(tool('train.py', DETECTION, '--amp', '--no-amp'), '--amp and --no-amp')
    if not torch.cuda.is_available():
        refuses(tool('train.py', DETECTION, '--amp'), 'no GPU is visible', 'FiniteAmpOptimWrapper')


def test_a_function_of_a_data_loader_that_is_not_registered(tool):
    done = tool('train.py', DETECTION, '--cfg-options', 'train_dataloader.worker_init_fn.type=ignore_signal')
    refuses(done, 'train_dataloader.worker_init_fn.type=ignore_signal is not registered', "mean 'ignore_signals'")
