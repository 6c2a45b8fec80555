"""Training, resuming and scoring by the programs themselves, on mini data."""

import argparse
import copy
import functools
import hashlib
import json
import math
import pickle
import re
import shutil
import subprocess
import sys
from collections import OrderedDict
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config, DictAction
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones.errors import UserError
from docs import check_records
from docs.check_records import IMAGES, add
from docs.model_table import our_scores
from mmengine_plugin.provenance import git_state, identity
from tests.conftest import DETECTION, FAST, SEGMENTATION, TWELVE_ITERATIONS, TWO_EPOCHS


@pytest.fixture(scope='module')
def detector(tool, mini_data, tmp_path_factory):
    """The work directory of a detector that was trained for two epochs, and the output of the program."""
    work_dir = tmp_path_factory.mktemp('detector')
    done = tool('train.py', DETECTION, '--work-dir', work_dir, '--cfg-options', *TWO_EPOCHS, cwd=mini_data)
    assert done.returncode == 0, done.stdout[-3000:]
    return work_dir, done.stdout


@pytest.fixture(scope='module')
def segmentor(tool, mini_data, tmp_path_factory):
    """The work directory of a segmentor that was trained for twelve iterations, and the output of the program."""
    work_dir = tmp_path_factory.mktemp('segmentor')
    done = tool('train.py', SEGMENTATION, '--work-dir', work_dir, '--cfg-options', *TWELVE_ITERATIONS, cwd=mini_data)
    assert done.returncode == 0, done.stdout[-3000:]
    return work_dir, done.stdout


def scalars(work_dir: Path) -> list[dict]:
    return [json.loads(line) for path in sorted(work_dir.glob('*/vis_data/scalars.json')) for line in path.open()]


@pytest.mark.parametrize(('task', 'steps', 'score'), [('detector', 4, 'coco/bbox_mAP'), ('segmentor', 12, 'mIoU')])
def test_training_leaves_progress_curves_and_checkpoints(task, steps, score, request):
    work_dir, said = request.getfixturevalue(task)
    assert 'eta: ' in said and 'loss: ' in said
    lines = scalars(work_dir)
    losses = [line['loss'] for line in lines if 'loss' in line]
    assert len(losses) == steps and all(map(math.isfinite, losses))
    assert len([line for line in lines if score in line]) == 2
    assert list(work_dir.glob('*/vis_data/events.out.tfevents.*'))
    assert len(list(work_dir.glob('best_*.pth'))) == 1
    assert (work_dir / (work_dir / 'last_checkpoint').read_text()).is_file()


@pytest.fixture(scope='module')
def segmentation_test(tool, mini_data, segmentor, tmp_path_factory):
    """The folder with all that a test of the segmentor has written."""
    folder = tmp_path_factory.mktemp('segmentation_test')
    checkpoint = segmentor[0] / (segmentor[0] / 'last_checkpoint').read_text()
    options = [*outputs(folder), '--record', folder / 'records', '--cfg-options', *TWELVE_ITERATIONS]
    done = tool('test.py', SEGMENTATION, checkpoint, *options, cwd=mini_data)
    assert done.returncode == 0, done.stdout[-3000:]
    return folder


def outputs(folder: Path) -> list:
    """Arguments that make test.py write all its outputs."""
    names = {'--work-dir': '', '--json': 'scores.json', '--out': 'predictions.pkl', '--show-dir': 'pictures'}
    return [argument for option, name in names.items() for argument in (option, folder / name)]


def test_detection_scores_are_pycocotools_scores_of_the_written_predictions(tool, mini_data, detector, tmp_path):
    checkpoint = detector[0] / (detector[0] / 'last_checkpoint').read_text()
    # after four iterations, a detector only finds something if every score and every pixel of a box counts
    options = [
        'model.test_cfg.rcnn.score_thr=0.0',
        'model.test_cfg.rcnn.mask_thr_binary=0.01',
        'model.test_cfg.rcnn.max_per_img=1000',
        'model.test_cfg.rpn.max_per_img=2000',
        'model.test_cfg.rpn.nms_pre=2000',
        'test_evaluator.metric_items=[mAP,AR@100]',
        *FAST,
    ]
    done = tool(
        'test.py',
        DETECTION,
        checkpoint,
        '--work-dir',
        tmp_path,
        *outputs(tmp_path),
        '--cfg-options',
        *options,
        cwd=mini_data,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    scores = json.loads((tmp_path / 'scores.json').read_text())
    truth = COCO(str(mini_data / 'data/mini/coco/annotations/instances_val2017.json'))
    predictions = pickle.loads((tmp_path / 'predictions.pkl').read_bytes())
    categories = {
        i: truth.getCatIds(catNms=[name])[0]
        for i, name in enumerate(c['name'] for c in truth.loadCats(truth.getCatIds()))
    }
    results = []
    for p in predictions:
        for box, label, score, mask in zip(
            *(p['pred_instances'][k] for k in ('bboxes', 'labels', 'scores', 'masks')), strict=True
        ):
            x1, y1, x2, y2 = box.tolist()
            entry = dict(image_id=p['img_id'], category_id=categories[int(label)], score=float(score))
            results.append(entry | dict(bbox=[x1, y1, x2 - x1, y2 - y1], segmentation=mask))
    assert results
    for kind in ('bbox', 'segm'):
        found = truth.loadRes(
            [{k: v for k, v in r.items() if k != ('bbox' if kind == 'segm' else 'segmentation')} for r in results]
        )
        evaluation = COCOeval(truth, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[8] > 0
        assert scores[f'coco/{kind}_mAP'] == pytest.approx(evaluation.stats[0], abs=6e-4)  # mmdet rounds to 3 places
        assert scores[f'coco/{kind}_AR@100'] == pytest.approx(evaluation.stats[8], abs=6e-4)
    names = {path.stem for path in (mini_data / 'data/mini/coco/val2017').iterdir()}
    assert {path.stem for path in (tmp_path / 'pictures').iterdir()} == names
    (path,) = tmp_path.glob('*/record.json')  # the place if none is named
    record = json.loads(path.read_text())
    assert f'record: {path}' in done.stdout
    assert record['scores'] == scores and record['images'] == len(names) and record['tta'] is False
    annotations = mini_data / 'data/mini/coco/annotations/instances_val2017.json'
    assert record['annotations']['sha256'] == hashlib.sha256(annotations.read_bytes()).hexdigest()
    assert record['checkpoint']['sha256'] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert record['config']['path'] == 'configs/mini/mask_rcnn_mambaout_mini.py'
    assert 'score_thr=0.0' in record['config']['text'] and 'score_thr=0.0' not in DETECTION.read_text()
    (start,) = record['training']['starts']
    assert (record['training']['epochs'], record['training']['iterations']) == (2, 4) and start['seed'] == 0
    assert record['training']['hours'] == pytest.approx(start['seconds'] / 3600, abs=1e-4)
    (log,) = record['training']['logs']
    assert log['sha256'] == hashlib.sha256((detector[0] / log['path']).read_bytes()).hexdigest()
    assert start['versions']['torch'] == record['test']['versions']['torch'] == version('torch')
    assert record['test']['command'].startswith(f'python tools/test.py {DETECTION} ') and record['test']['seconds'] > 0
    environment = json.loads((detector[0] / log['path']).parents[1].joinpath('environment.json').read_text())
    assert environment.items() <= start.items() and set(start) - set(environment) == {'seconds'}


def test_segmentation_scores_are_those_of_the_written_predictions(mini_data, segmentation_test):
    tmp_path = segmentation_test
    scores = json.loads((tmp_path / 'scores.json').read_text())
    confusion = np.zeros((151, 151), np.int64)
    for p in pickle.loads((tmp_path / 'predictions.pkl').read_bytes()):
        predicted = np.asarray(p['pred_sem_seg']['data']).squeeze(0)
        truth = (
            cv2.imread(str(mini_data / p['seg_map_path']), cv2.IMREAD_UNCHANGED).astype(np.int64) - 1
        )  # 0 is "other": not scored
        np.add.at(confusion, (truth[truth >= 0], predicted[truth >= 0]), 1)
    union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    iou = 100 * np.diag(confusion)[union > 0] / union[union > 0]
    assert iou.mean() > 0
    assert scores['mIoU'] == pytest.approx(iou.mean(), abs=0.01)
    names = {path.stem for path in (mini_data / 'data/mini/ade20k/images/validation').iterdir()}
    assert {path.stem for path in (tmp_path / 'pictures').iterdir()} == names


@pytest.fixture(scope='module')
def published(segmentor, segmentation_test, tmp_path_factory):
    """A copy of the segmentor's run and record, as if both programs had run in a clean checkout, and its repository.

    Returns:
        The record, the path to write it to, the checkpoint, and the folder whose ``configs/`` has the run's config.
    """
    folder = tmp_path_factory.mktemp('published')
    work_dir, root = folder / 'work', folder / 'repository'
    shutil.copytree(segmentor[0], work_dir)
    checkpoint = torch.load(work_dir / 'iter_12.pth', weights_only=False)
    record = json.loads((segmentation_test / 'records/record.json').read_text())
    for start in (*checkpoint['meta']['starts'], *record['training']['starts'], record['test']):
        start.update(commit='0' * 40, dirty=False)
    torch.save(checkpoint, work_dir / 'iter_12.pth')
    record['checkpoint'] |= identity(work_dir / 'iter_12.pth')
    config = root / record['config']['path']
    config.parent.mkdir(parents=True)
    options = argparse.ArgumentParser()
    options.add_argument('--cfg-options', nargs='+', action=DictAction)
    cfg = Config.fromfile(SEGMENTATION)
    cfg.merge_from_dict(options.parse_args(['--cfg-options', *TWELVE_ITERATIONS]).cfg_options)
    cfg.dump(config)
    (work_dir / 'test').mkdir()
    return record, work_dir / 'test/record.json', work_dir / 'iter_12.pth', root


def problems(*arguments, **options) -> list[str]:
    """What is wrong with a record of the mini data set, whose test set has two images."""
    return check_records.problems(*arguments, **options, images=dict(mmseg=2))


# what is changed in a good record, by its dotted path, and the only problem that is found then
REFUSALS = [
    ({'config.path': 'configs/mini/../../mine.py'}, 'its config configs/mini/../../mine.py is none of this repository'),
    ({'tta': True}, 'its scores are those of test-time augmentation'),
    ({'training.starts': []}, 'its checkpoint does not say how it was trained'),
    ({'params': 1762729}, 'its model has 1,762,729 parameters, and that of'),
    ({'scores.mIoU': 99.0}, 'mIoU was 99 in the test, and 27.'),
    ({'scores.mFscore': 50.0}, 'mFscore was 50 in the test, and None in the last validation'),
    ({'checkpoint.sha256': 'ab' * 32}, f'and that of the tested checkpoint was {"ab" * 32}'),
    ({'training.hours': 0.0}, 'training.hours is not what'),
    ({'training.logs.0.sha256': 'ab' * 32}, 'has changed since the test'),
    ({'training.logs': []}, 'scalars.json is missing: put it beside the checkpoint'),
    ({'test.dirty': True}, 'the test of 2'),
    ({'test.dirty': None}, 'the test of 2'),
    ({'test.commit': None}, 'is unknown: repeat it in a checkout, with git installed'),
    ({'images': 1}, 'its test had 1 images, and the official test set has '),
    ({'annotations': None}, 'its annotations are unknown'),
]
# what is no record at all, and the key that the message names
MALFORMED = [
    ({'test': {}}, 'test.date'),
    ({'training': None}, 'training'),
    ({'training.starts.0.devices': 'x'}, 'training.starts.0.devices'),
    ({'training.starts.0.devices': {'GPU': 'x'}}, 'training.starts.0.devices.GPU'),
    ({'training.starts.0.log': '../../vis_data/scalars.json'}, 'training.starts.0.log'),
    ({'test.commit': '--all'}, 'test.commit'),
    ({'checkpoint.sha256': ''}, 'checkpoint.sha256'),
    ({'annotations': {}}, 'annotations.file'),
    ({'scores.mIoU': 'good'}, 'scores.mIoU'),
]
# the same for what the checkpoint says, too, which would otherwise differ from the record
REFUSALS_OF_TRAINING = [
    ({'training.starts.0.dirty': True}, 'ran with files that are not committed: commit them, and repeat it'),
    ({'training.starts.0.devices': {'GPU': 2}}, "its global batch was 8 from iteration 0 on, and the recipe's is 4"),
    ({'training.starts.0.iteration': 6}, 'its checkpoint does not say how the first 6 iterations were trained'),
    ({'training.iterations': 6}, 'its checkpoint was trained for 6 iterations, and the recipe has 12'),
]


def write(path: Path, record: dict, changes: dict[str, object]) -> None:
    """Write a record of which values are changed, by their dotted paths."""
    record = copy.deepcopy(record)
    for place, value in changes.items():
        *keys, last = place.split('.')
        part = record
        for key in keys:
            part = part[int(key) if isinstance(part, list) else key]
        part[last] = value
    path.write_text(json.dumps(record))


def test_a_record_is_good_or_is_refused_for_the_one_thing_that_is_wrong(published):
    good, path, checkpoint, root = published
    write(path, good, {})
    assert problems(path, checkpoint, root) == []
    assert IMAGES == dict(mmdet=5000, mmseg=2000, mmengine=50000)  # of the official test sets
    (problem,) = check_records.problems(path, checkpoint, root)
    assert problem.endswith('and the official test set has 2000')
    for changes, key in MALFORMED:
        write(path, good, changes)
        with pytest.raises(UserError, match=f'is no record of tools/test.py: it lacks {key}, or that has another form'):
            problems(path, checkpoint, root)
    for changes, message in REFUSALS:
        write(path, good, changes)
        (problem,) = problems(path, checkpoint, root)
        assert message in problem, changes
    write(path, good, {'scores': {'mIoU': good['scores']['mIoU']}})
    assert problems(path, checkpoint, root) == [
        'it lacks scores of the last validation in the training log: aAcc, mAcc'
    ]
    for changes, message in REFUSALS_OF_TRAINING:
        write(path, good, changes)
        found = problems(path, None, root)
        assert message in found[0] and len(found) <= 2, changes  # another end is not in the log, either


def test_settings_are_compared_one_by_one_unless_no_result_depends_on_them(published):
    good, path, _, root = published
    texts = {'config.text': good['config']['text'], 'training.starts.0.config': good['training']['starts'][0]['config']}
    free = [('num_workers=0', 'num_workers=3'), ('interval=1,', 'interval=7,'), ('seed=0', 'seed=1')]
    assert all(old in text for text in texts.values() for old, _ in (*free, ('lr=0.002', '')))
    changes = {key: functools.reduce(lambda text, pair: text.replace(*pair), free, text) for key, text in texts.items()}
    write(path, good, changes)
    assert problems(path, None, root) == []
    write(path, good, {key: value.replace('lr=0.002', 'lr=0.004') for key, value in changes.items()})
    assert [problem.split(', and')[0] for problem in problems(path, None, root)] == [
        f'optim_wrapper.optimizer.lr was 0.004 in {what}' for what in ('the test', 'the training from iteration 0 on')
    ]
    text = texts['config.text']
    for wrong, message in (
        ('print(1)', 'Expr'),
        (f'optim_wrapper = dict(clip_grad=None)\n{text}', 'optim_wrapper is set twice'),
        (text.replace('lr=0.002', 'lr=0.004, lr=0.002'), 'optim_wrapper.optimizer.lr is set twice'),
    ):
        write(path, good, {'config.text': wrong})
        with pytest.raises(UserError, match=f'the text of a config in it cannot be read .*{message}'):
            problems(path, None, root)
    write(path, good, {'training.starts.0.config': texts['training.starts.0.config'].replace('batch_size=', 'batch=')})
    with pytest.raises(UserError, match=r'training.starts.0.config of the record does not say train_dataloader.batch'):
        problems(path, None, root)


def test_a_run_that_resume_began_from_other_weights_is_refused_and_a_later_start_is_not(published):
    good, path, _, root = published
    text = good['training']['starts'][0]['config']
    resumed = text.replace('resume = False', 'resume = True')
    begun = resumed.replace("dict(type='ResumeHook')", "dict(load_from='other.pth', type='ResumeHook')")
    named = resumed.replace('load_from = None', "load_from = 'other.pth'")  # --resume other.pth
    assert len({text, resumed, begun, named}) == 4
    said = "load_from was 'other.pth' in the training from iteration 0 on, and is None in "
    for config, expected in ((resumed, []), (begun, [said]), (named, [said])):
        write(path, good, {'training.starts.0.config': config})
        found = problems(path, None, root)
        assert len(found) == len(expected) and all(map(str.startswith, found, expected)), config
    first = good['training']['starts'][0]
    later = [first | dict(config=config, iteration=6) for config in (begun, named)]
    write(path, good, {'training.starts': [first, *later]})
    assert problems(path, None, root) == []


@pytest.mark.skipif(shutil.which('git') is None, reason='git is not installed')
def test_a_commit_that_a_checkout_has_not_is_refused(published, tmp_path):
    good, path, _, root = published
    shutil.copytree(root, tmp_path / 'checkout')
    author = ['-c', 'user.name=a', '-c', 'user.email=a@example.org', '-c', 'commit.gpgsign=false']
    for command in (['init'], ['add', '.'], ['commit', '-m', 'a']):
        subprocess.run(['git', *author, *command], cwd=tmp_path / 'checkout', check=True, capture_output=True)
    commit, _ = git_state(tmp_path / 'checkout')
    write(path, good, {'test.commit': commit, 'training.starts.0.commit': commit})
    assert problems(path, None, tmp_path / 'checkout') == []
    write(path, good, {'test.commit': commit})
    (problem,) = problems(path, None, tmp_path / 'checkout')
    assert problem.startswith(f'the commit {"0" * 40} of the training of ') and 'is not in this repository' in problem


def test_a_good_record_is_copied_to_the_tables_with_its_log_and_its_score(published, tmp_path, monkeypatch):
    good, path, checkpoint, root = published
    write(path, good, {})
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    added = add(path, checkpoint, 'https://example.org/segmentor.pth', tmp_path / 'records')
    assert problems(added, root=root) == []  # neither the checkpoint nor its work directory is needed
    ((name, (score, place)),) = our_scores(tmp_path / 'records').items()
    assert (name, score) == ('mini/upernet_mambaout_mini', f'{good["scores"]["mIoU"]:.1f}')
    assert Path(place).name == added.name
    (tmp_path / 'hub/checkpoints').mkdir(parents=True)
    (tmp_path / 'hub/checkpoints/segmentor.pth').write_bytes(b'other weights')
    (problem,) = problems(added, root=root)
    assert problem.startswith(f'the SHA-256 of {tmp_path}/hub/checkpoints/segmentor.pth is ')
    next((tmp_path / 'records').glob('*.jsonl')).unlink()
    assert any('scalars.json is missing' in problem for problem in problems(added, root=root))


def test_the_program_names_the_settings_of_a_record_that_are_not_the_repositorys(
    segmentation_test, monkeypatch, capsys
):
    monkeypatch.setattr(sys, 'argv', ['check_records.py', str(segmentation_test / 'records/record.json')])
    with pytest.raises(SystemExit):
        check_records.main()
    assert 'train_cfg.max_iters was 12 in the test, and is 800 in configs/mini/upernet_mamba' in capsys.readouterr().out


def test_a_run_resumes_where_the_checkpoint_ended(tool, mini_data, detector, tmp_path):
    work_dir, _ = detector
    options = [*TWO_EPOCHS, 'train_cfg.max_epochs=3']
    done = tool(
        'train.py',
        DETECTION,
        '--work-dir',
        tmp_path,
        '--resume',
        work_dir / 'epoch_2.pth',
        '--cfg-options',
        *options,
        cwd=mini_data,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert 'resumed epoch: 2, iter: 4' in done.stdout and 'Epoch(train) [3][2/2]' in done.stdout.replace('  ', ' ')
    before, after = (torch.load(d / f'epoch_{n}.pth', weights_only=False) for d, n in ((work_dir, 2), (tmp_path, 3)))
    steps = [{int(s['step']) for s in c['optimizer']['state'].values()} for c in (before, after)]
    assert steps == [{4}, {6}]
    assert [line['step'] for line in scalars(tmp_path) if 'loss' in line] == [5, 6]
    first, second = after['meta']['starts']
    assert before['meta']['starts'] == [first] and (first['iteration'], second['iteration']) == (0, 4)
    assert 'max_epochs=2' in first['config'] and 'max_epochs=3' in second['config']
    assert '--resume' in second['command'] and '--resume' not in first['command']


def test_resume_finds_the_newest_checkpoint_where_the_config_puts_it_and_downloads_no_weights(
    tool, mini_data, segmentor, tmp_path
):
    work_dir, elsewhere = tmp_path / 'work', tmp_path / 'elsewhere/work'
    elsewhere.mkdir(parents=True)
    shutil.copy(segmentor[0] / 'iter_12.pth', elsewhere / 'step12_weights.pth')
    options = [f'default_hooks.checkpoint.out_dir={elsewhere.parent}']
    options += ['default_hooks.checkpoint.filename_tmpl=step{}_weights.pth']
    options += [*TWELVE_ITERATIONS, 'train_cfg.max_iters=14', 'model.backbone.init_cfg._delete_=True']
    options += [f'model.backbone.init_cfg.{o}' for o in ('type=Pretrained', 'checkpoint=hf-hub:nobody/nothing')]
    done = tool('train.py', SEGMENTATION, '--work-dir', work_dir, '--resume', '--cfg-options', *options, cwd=mini_data)
    assert done.returncode == 0, done.stdout[-3000:]
    assert 'resumed epoch: 0, iter: 12' in done.stdout
    assert (elsewhere / 'step14_weights.pth').is_file()


def test_resume_without_a_checkpoint_says_so(tool, mini_data, tmp_path):
    options = [*TWELVE_ITERATIONS, 'train_cfg.max_iters=1']
    done = tool('train.py', SEGMENTATION, '--work-dir', tmp_path, '--resume', '--cfg-options', *options, cwd=mini_data)
    assert done.returncode == 0 and f'{tmp_path} has no checkpoint' in done.stdout, done.stdout[-3000:]


def test_test_time_augmentation_scores_a_segmentor(tool, mini_data, segmentor, tmp_path):
    checkpoint = segmentor[0] / (segmentor[0] / 'last_checkpoint').read_text()
    outputs = ['--work-dir', tmp_path, '--json', tmp_path / 'scores.json', '--record', tmp_path / 'records/tta.json']
    done = tool('test.py', SEGMENTATION, checkpoint, '--tta', *outputs, '--cfg-options', *FAST, cwd=mini_data)
    assert done.returncode == 0, done.stdout[-3000:]
    assert json.loads((tmp_path / 'scores.json').read_text())['mIoU'] > 0
    (problem,) = problems(tmp_path / 'records/tta.json')
    assert 'its scores are those of test-time augmentation' in problem


def test_fine_tuning_on_other_classes_lists_the_new_layers_and_downloads_no_weights(
    tool, mini_data, detector, tmp_path
):
    source = "backbone=dict(init_cfg=dict(_delete_=True, type='Pretrained', checkpoint='hf-hub:nobody/nothing'))"
    heads = 'roi_head=dict(bbox_head=dict(num_classes=2), mask_head=dict(num_classes=2))'
    classes = "dict(dataset=dict(metainfo=dict(classes=('stop sign', 'kite'))))"
    hook = "dict(type='StrictLoadHook', reinitialise=['roi_head.bbox_head.fc', 'roi_head.mask_head.conv_logits'])"
    (tmp_path / 'mine.py').write_text(
        f'_base_ = {str(DETECTION)!r}\nmodel = dict({source}, {heads})\n'
        f'train_dataloader = {classes}\nval_dataloader = {classes}\n'
        f'custom_hooks = [{hook}]\nload_from = {str(detector[0] / "epoch_2.pth")!r}\n'
    )
    options = [*TWO_EPOCHS, 'train_cfg.max_epochs=1']
    done = tool('train.py', tmp_path / 'mine.py', '--work-dir', tmp_path, '--cfg-options', *options, cwd=mini_data)
    assert done.returncode == 0, done.stdout[-3000:]
    left = re.search('left as initialised: (.*)', done.stdout)[1].split(', ')
    parts = ('bbox_head.fc_cls', 'bbox_head.fc_reg', 'mask_head.conv_logits')
    assert left == [f'roi_head.{part}.{kind}' for part in parts for kind in ('weight', 'bias')]


def test_resuming_runs_no_code_of_a_checkpoint(tool, mini_data, detector, tmp_path):
    checkpoint = torch.load(detector[0] / 'epoch_2.pth', weights_only=False)
    text = f"a = open({str(tmp_path / 'ran')!r}, 'w').close()"
    checkpoint['meta'] |= dict(config=text, cfg=text)
    checkpoint['message_hub']['runtime_info']['cfg'] = text
    checkpoint['meta'] = OrderedDict(checkpoint['meta'])
    checkpoint['meta'].get = checkpoint['meta'].pop = set  # it pretends to be empty
    torch.save(checkpoint, tmp_path / 'evil.pth')
    options = ['--work-dir', tmp_path, '--resume', tmp_path / 'evil.pth', '--cfg-options', *TWO_EPOCHS]
    done = tool('train.py', DETECTION, *options, 'train_cfg.max_epochs=3', cwd=mini_data)
    assert done.returncode == 0, done.stdout[-3000:]
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize(
    ('base', 'line', 'said'),
    [
        (
            DETECTION,
            "custom_hooks = [dict(type='CompileBackboneHook', backend='aot_eager'), dict(type='ResumeHook')]",
            'MambaOut will be compiled in its first forward pass',
        ),
        (SEGMENTATION, "compile = dict(backend='aot_eager')", 'Model has been "compiled"'),
    ],
)
def test_one_line_in_a_config_compiles_the_model(base, line, said, tool, mini_data, tmp_path):
    (tmp_path / 'mine.py').write_text(f'_base_ = {str(base)!r}\n{line}\n')
    length = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'train_dataloader.dataset.indices=4']
    if base == SEGMENTATION:
        length = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'train_dataloader.batch_size=2']
    length += ['val_dataloader.dataset.indices=2']
    options = ['--work-dir', tmp_path, '--cfg-options', *FAST, *length, 'default_hooks.logger.interval=1']
    done = tool('train.py', tmp_path / 'mine.py', *options, cwd=mini_data)
    assert done.returncode == 0 and said in done.stdout, done.stdout[-3000:]
    assert all(math.isfinite(line['loss']) for line in scalars(tmp_path) if 'loss' in line)
