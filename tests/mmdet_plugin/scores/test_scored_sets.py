"""A metric scores the objects of the images that are tested, or the run is refused before the first step."""

import copy
import json
import multiprocessing
import shutil
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import EVALUATOR

from backbones import UserError
from mmengine_plugin.checks.all_data import find_problems
from mmengine_plugin.checks.check_run_hook import warn_of_shared_images
from mmengine_plugin.checks.metric_checks import check_metrics
from mmengine_plugin.data.shared_images import MOST_LISTED, shared_by_content, shared_by_path
from tests.mmdet_plugin.data.small_sets import CLASSES, IMAGES, build, draw, predict, settings, write

MODEL = dict(test_cfg=dict(rpn=dict(max_per_img=1000), rcnn=dict(max_per_img=100)))


def run_of(dataset, evaluator: dict, split: str = 'val', **model) -> SimpleNamespace:
    """The parts of a run that the checks of metrics look at."""
    cfg = Config({f'{split}_evaluator': evaluator, 'model': model or MODEL})
    built = EVALUATOR.build(evaluator) if 'metrics' in evaluator else Evaluator(evaluator)
    built.dataset_meta = dataset.metainfo
    return SimpleNamespace(
        cfg=cfg, **{f'{split}_dataloader': SimpleNamespace(dataset=dataset), f'{split}_evaluator': built}
    )


def joined(tmp_path, **options):
    """Two validation sets in one, whose images have the same ids, and their contents."""
    contents = [draw(tmp_path / name) for name in ('first', 'second')]
    for mark in contents[1]['annotations']:
        mark['bbox'][0] += 3
    for name, content in zip(('first', 'second'), contents, strict=True):
        write(tmp_path / name, content)
    parts = [settings(tmp_path / name, test_mode=True, **options) for name in ('first', 'second')]
    return DATASETS.build(dict(type='ConcatDataset', datasets=parts)), contents


def test_several_sets_are_scored_by_the_settings_that_the_message_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset, contents = joined(tmp_path)
    metric = dict(type='FastCocoMetric', metric=['bbox', 'segm'], ann_file=str(tmp_path / 'first/a.json'))
    with pytest.raises(
        UserError, match='the images of first/a.json and second/a.json, but val_evaluator scores'
    ) as error:
        check_metrics(run_of(dataset, metric), 'val')
    text = str(error.value)
    assert 'score each set by itself' in text and '\n' not in text
    advice = text[text.index('val_evaluator = ') : text.index(', and default_hooks')].replace('_delete_=True, ', '')
    evaluator = Config.fromstring(advice, '.py').val_evaluator
    run = run_of(dataset, evaluator)
    check_metrics(run, 'val')
    for part, content in zip(dataset.datasets, contents, strict=True):
        predict(part, content, lambda samples: run.val_evaluator.process(samples, {}))
    scores = run.val_evaluator.evaluate(2 * IMAGES)
    assert [scores[f'{name}/coco/bbox_mAP'] for name in ('first', 'second')] == [1, 1]
    save_best = Config.fromstring(text[text.index('default_hooks = ') :], '.py').default_hooks.checkpoint.save_best
    assert save_best in scores


def test_a_merged_file_of_several_sets_is_accepted(tmp_path):
    dataset, contents = joined(tmp_path)
    merged = write(tmp_path, contents[0])  # another file than those of the sets
    check_metrics(run_of(dataset, dict(type='FastCocoMetric', ann_file=str(merged))), 'val')


def test_one_file_in_several_sets_is_accepted(tmp_path):
    write(tmp_path, draw(tmp_path))
    parts = [settings(tmp_path, test_mode=True, indices=indices) for indices in ([0, 1], [2, 3])]
    dataset = DATASETS.build(dict(type='ConcatDataset', datasets=parts))
    check_metrics(run_of(dataset, dict(type='FastCocoMetric', ann_file=str(tmp_path / 'a.json'))), 'val')


def test_a_metric_without_a_file_needs_samples_with_their_objects(tmp_path):
    dataset, _ = joined(tmp_path)
    with pytest.raises(
        UserError, match=r"set val_evaluator.ann_file=.*or meta_keys=\('img_id', .*'instances'\) in Pack"
    ):
        check_metrics(run_of(dataset, dict(type='FastCocoMetric')), 'val')
    for part in dataset.datasets:
        part.pipeline.transforms[-1].meta_keys += ('instances',)
    check_metrics(run_of(dataset, dict(type='FastCocoMetric')), 'val')


@pytest.mark.parametrize('metric', ['FastCocoMetric', 'CocoMetric'])
@pytest.mark.parametrize('annotations', ['none', 'others'])
def test_a_validation_set_without_objects_is_refused(annotations, metric, tmp_path, logged):
    content = draw(tmp_path)
    classes = CLASSES
    if annotations == 'none':
        content['annotations'] = []
    else:
        content['annotations'], classes = [a for a in content['annotations'] if a['category_id'] == 2], ('cat',)
    evaluator = dict(type=metric, ann_file=str(write(tmp_path, content)))
    dataset = build(tmp_path, classes, test_mode=True)
    if metric == 'CocoMetric':
        check_metrics(run_of(dataset, evaluator), 'val')  # mmdet's own metric is not read
        return
    with pytest.raises(UserError, match="a.json has no objects of the classes 'cat'.*: every score would be -1; use a"):
        check_metrics(run_of(dataset, evaluator), 'val')
    check_metrics(run_of(dataset, evaluator, 'test'), 'test')  # the predictions may be what is asked for
    assert any('every score would be -1' in line for line in logged())
    check_metrics(run_of(dataset, dict(evaluator, format_only=True, outfile_prefix=str(tmp_path / 'w'))), 'val')


def crowd_image(content: dict, number: int) -> None:
    """Put a number of objects into the first image."""
    mark = content['annotations'][0]
    content['annotations'] += [dict(mark, id=100 + i, bbox=[i % 90, i % 60, 9, 9], area=81) for i in range(number - 2)]


@pytest.mark.parametrize('number', [100, 101, 180])
def test_more_objects_than_are_counted_are_reported_with_the_settings(number, tmp_path, logged):
    content = draw(tmp_path)
    crowd_image(content, number)
    evaluator = dict(type='FastCocoMetric', ann_file=str(write(tmp_path, content)))
    dataset = build(tmp_path, test_mode=True)
    check_metrics(run_of(dataset, evaluator), 'val')
    lines = [line for line in logged() if 'no detector can find all' in line]
    if number == 100:
        assert not lines
        return
    settings_ = f'Set model.test_cfg.rcnn.max_per_img={number}, val_evaluator.proposal_nums=({number},)'
    assert len(lines) == 1 and f'0.png of {tmp_path}/a.json has {number} objects' in lines[0] and settings_ in lines[0]
    wide = dict(test_cfg=dict(rcnn=dict(max_per_img=number)))
    check_metrics(run_of(dataset, dict(evaluator, proposal_nums=(number,)), **wide), 'val')
    assert len([line for line in logged() if 'no detector can find all' in line]) == 1
    check_metrics(run_of(dataset, dict(evaluator, proposal_nums=(number,)), test_cfg=dict(max_per_img=50)), 'val')
    assert f'Set model.test_cfg.max_per_img={number} ' in f'{logged()[-1]} '


def test_objects_without_masks_are_refused_before_masks_are_scored(tmp_path):
    content = draw(tmp_path)
    content['annotations'][3]['segmentation'] = []
    evaluator = dict(type='FastCocoMetric', metric=['bbox', 'segm'], ann_file=str(write(tmp_path, content)))
    dataset = build(tmp_path, masks=False, test_mode=True)
    with pytest.raises(UserError, match='object without a mask: annotation 4 of 1.png'):
        check_metrics(run_of(dataset, evaluator), 'val')
    check_metrics(run_of(dataset, dict(evaluator, metric='bbox')), 'val')


# --- images of the training set ---------------------------------------------------------------------------------------


def test_validation_images_that_are_training_images_are_found_by_path(tmp_path):
    write(tmp_path / 'first', draw(tmp_path / 'first'))
    shutil.copytree(tmp_path / 'first', tmp_path / 'second')
    (tmp_path / 'linked').symlink_to(tmp_path / 'first')
    first, second, linked = (build(tmp_path / name) for name in ('first', 'second', 'linked'))
    assert shared_by_path(first, second) is None  # equal images elsewhere are found by their content only
    expected = f'4 of the 4 validation images are also training images, the first is {tmp_path}/first/images/0.png'
    assert shared_by_path(first, linked).startswith(expected)
    parts = [build(tmp_path / 'first', indices=indices) for indices in ([0, 1], [1, 2], [2, 3])]
    assert shared_by_path(parts[0], parts[1]).startswith('1 of the 2 validation images')
    assert shared_by_path(parts[0], parts[2]) is None


class ManyImages:
    """A data set that has only the entries of its images."""

    data_prefix = dict(img='images')

    def __init__(self, number: int) -> None:
        self.number, self.read = number, 0

    def __len__(self) -> int:
        return self.number

    def get_data_info(self, index: int) -> dict:
        self.read += 1
        return dict(img_path=f'images/{index}.jpg')


@pytest.mark.parametrize(('number', 'is_read'), [(50, True), (MOST_LISTED, False)])
def test_the_images_of_very_large_sets_are_not_listed(number, is_read):
    train, val = ManyImages(number), ManyImages(3)
    note = shared_by_path(train, val)
    assert bool(train.read) == is_read
    assert note.startswith('3 of the 3 validation images') if is_read else note is None


def _read_by_a_process(rank: int, port: int, answers: multiprocessing.SimpleQueue) -> None:
    torch.distributed.init_process_group('gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    train = ManyImages(50)
    warn_of_shared_images(SimpleNamespace(dataset=train), SimpleNamespace(dataset=ManyImages(3)))
    answers.put((rank, train.read))


def test_only_the_main_process_lists_the_images(free_port):
    context = multiprocessing.get_context('fork')
    answers = context.SimpleQueue()
    processes = [context.Process(target=_read_by_a_process, args=(rank, free_port, answers)) for rank in range(2)]
    for process in processes:
        process.start()
    assert sorted(answers.get() for _ in processes) == [(0, 50), (1, 0)]
    for process in processes:
        process.join()


def test_validation_images_that_are_training_images_are_found_by_content(tmp_path):
    for number, name in enumerate(('first', 'second')):
        write(tmp_path / name, draw(tmp_path / name))
        for image in (tmp_path / name / 'images').iterdir():
            image.write_bytes(image.read_bytes() + bytes([number]))  # decoders ignore what follows the image
    first, second = build(tmp_path / 'first'), build(tmp_path / 'second')
    assert shared_by_content(first, second) is None
    shutil.copy(tmp_path / 'first/images/2.png', tmp_path / 'second/images/0.png')
    assert shared_by_content(first, second).startswith('1 of the 4 validation images are also training images')


def test_the_check_of_a_config_prints_shared_images_and_finds_what_a_run_refuses(tmp_path, capsys, logged):
    content = draw(tmp_path)
    crowd_image(content, 120)
    for i, mark in enumerate(content['annotations']):
        mark['bbox'][2] += i / 100  # no two are the same
        del mark['segmentation']
    write(tmp_path, content)
    evaluator = dict(type='FastCocoMetric', ann_file=str(tmp_path / 'a.json'), _scope_='mmdet')
    loaders = {f'{split}_dataloader': dict(dataset=settings(tmp_path, masks=False)) for split in ('train', 'val')}
    cfg = Config(loaders | dict(val_evaluator=evaluator, model=MODEL, default_scope='mmdet'), filename=__file__)
    assert find_problems(cfg) == []
    assert '4 of the 4 validation images are also training images' in capsys.readouterr().out
    assert any('val_evaluator.proposal_nums=(120,)' in line for line in logged())
    empty = copy.deepcopy(content)
    empty['annotations'] = []
    (tmp_path / 'empty.json').write_text(json.dumps(empty))
    cfg.val_dataloader.dataset.update(ann_file='empty.json', test_mode=True)
    cfg.val_evaluator.ann_file = str(tmp_path / 'empty.json')
    assert [problem.kind for problem in find_problems(cfg)] == ['refused val_evaluator']
