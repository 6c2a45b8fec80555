#!/usr/bin/env python
"""Check records of tests against this repository. The model tables have only the scores of good ones.

    python docs/check_records.py                                                # those of the tables
    python docs/check_records.py RECORD [--checkpoint FILE]                     # what tools/test.py has written
    python docs/check_records.py RECORD --checkpoint FILE --add [--url URL]     # and put it into the tables

A record is refused if its settings, first weights, size of the model, schedule or batch are not those of the
repository's config; if the test had other images than the official one; if its checkpoint is another file; if a
training log is missing or ends with other scores; or if its code was not committed. The exit code is 1 then.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlparse

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from backbones.errors import UserError
from backbones.safe_checkpoint import read_checkpoint
from mmengine_plugin.atomic_files import atomic_file, write_json
from mmengine_plugin.cli.arguments import run_parser
from mmengine_plugin.cli.configs import load_run
from mmengine_plugin.cli.error_messages import run
from mmengine_plugin.engine.record_hook import NUMBER, read_record
from mmengine_plugin.provenance import has_commit, identity, read_log, training_of, without_secrets

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / 'benchmarks/results/records'
BATCH = 'train_dataloader.batch_size'
FIRST_WEIGHTS = re.compile(r'custom_hooks\.\d+\.load_from')  # to which train.py --resume moves load_from
# settings on which no result depends, and those that are checked in another way
FREE = re.compile(
    rf'launcher|resume|work_dir|{re.escape(BATCH)}|auto_scale_lr\.enable|{FIRST_WEIGHTS.pattern}'
    r'|(train|val|test)_dataloader\.(num_workers|persistent_workers)'
    r'|(default_hooks\.(logger|checkpoint)|env_cfg|randomness|visualizer)\..*'
)
TOLERANCE = 0.1  # points out of 100, since mmdet rounds to them, and GPUs add in any order
# images of the official test sets, by default_scope: COCO val2017, and the validation images of ADE20K and ImageNet
IMAGES = dict(mmdet=5000, mmseg=2000, mmengine=50000)
NOT_SCORES = {'step', 'epoch', 'iter', 'time', 'data_time', 'memory'}  # in a validation's line of a training log


def settings(text: str) -> dict[str, str]:
    """The settings in the text of a config, by their dotted names. The text is read and not run.

    Raises:
        UserError: If it is not the text of a config.
    """
    try:
        pairs = [(target.id, statement.value) for statement in ast.parse(text).body for target in statement.targets]
        return dict(_flatten(pairs, ''))
    except (AttributeError, SyntaxError, TypeError, ValueError) as error:
        raise UserError(f'the text of a config in it cannot be read [{error}]') from error


def _flatten(items: list[tuple[object, ast.expr]], place: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted name of each setting, and its value as Python writes it."""
    names = [name for name, _ in items]
    for name, node in items:
        if names.count(name) > 1:
            raise ValueError(f'{place}{name} is set twice')
        if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:  # dict({...})
            node = node.args[0]
        parts: list[tuple[object, ast.expr]] = []
        if isinstance(node, ast.Call) and not node.args:
            parts = [(keyword.arg, keyword.value) for keyword in node.keywords]
        elif isinstance(node, ast.Dict):
            parts = [(ast.literal_eval(key), value) for key, value in zip(node.keys, node.values, strict=True)]
        elif isinstance(node, ast.List):
            parts = list(enumerate(node.elts))
        if parts:
            yield from _flatten(parts, f'{place}{name}.')
        else:
            yield f'{place}{name}', ast.unparse(node)


def problems(
    path: Path, checkpoint: Path | None = None, root: Path = ROOT, images: Mapping[str, int] = IMAGES
) -> list[str]:
    """What is wrong with a record.

    Args:
        path: The record.
        checkpoint: The file of its checkpoint. Without it, the file of its URL's name in torch's cache, if any.
        root: The folder that has ``configs/``.
        images: The number of images of the test sets, by ``default_scope``.

    Returns:
        A sentence for each problem.

    Raises:
        UserError: If the file is no record.
    """
    record = read_record(path)
    place, training = record['config']['path'], record['training']
    config = Path(root, place).resolve()
    if not config.is_relative_to(root.resolve() / 'configs') or not config.is_file():
        return [f'its config {place} is none of this repository: test with the config of that name in configs/']
    if not training['starts']:
        return ['its checkpoint does not say how it was trained: train it by tools/train.py']
    if record['tta']:
        return ['its scores are those of test-time augmentation, which no training log has: test without --tta']
    with tempfile.TemporaryDirectory() as folder:
        cfg = load_run(run_parser('').parse_args([str(config), '--work-dir', folder]))
    checks = of_settings(record, cfg), of_code(record, root), of_model(record, cfg), of_schedule(training, cfg)
    checks += of_images(record, cfg, images), of_checkpoint(record, checkpoint), of_logs(path, record, checkpoint)
    return [problem for check in checks for problem in check]


def of_settings(record: dict, cfg: Config) -> Iterator[str]:
    """Settings that are not those of the repository's config."""
    ours = settings(without_secrets(cfg.pretty_text))
    texts = [('the test', record['config']['text'])]
    texts += [(f'the training from iteration {s["iteration"]} on', s['config']) for s in record['training']['starts']]
    for i, (what, text) in enumerate(texts):
        theirs = settings(text)
        if what == 'the test' or i > 1 and theirs.get('resume') == 'True':
            theirs['load_from'] = ours.get('load_from', 'None')  # the checkpoint
        elif theirs.get('resume') == 'True' and theirs.get('load_from') == 'None':  # ResumeHook has the first weights
            hooks = [value for key, value in theirs.items() if FIRST_WEIGHTS.fullmatch(key)]
            theirs['load_from'] = hooks[0] if hooks else 'None'
        different = [key for key in ours | theirs if ours.get(key) != theirs.get(key) and not FREE.fullmatch(key)]
        for key in different[:5]:
            found, expected = (side.get(key, 'not set') for side in (theirs, ours))
            yield f'{key} was {found} in {what}, and is {expected} in {record["config"]["path"]}'
        if len(different) > 5:
            yield f'and {len(different) - 5} other settings of {what} differ'


def of_code(record: dict, root: Path) -> Iterator[str]:
    """Code that nobody else can get."""
    for what, start in [('test', record['test']), *(('training', start) for start in record['training']['starts'])]:
        if start['commit'] is None:
            yield f'the commit of the {what} of {start["date"]} is unknown: repeat it in a checkout, with git installed'
        elif start['dirty'] is not False:
            yield f'the {what} of {start["date"]} ran with files that are not committed: commit them, and repeat it'
        elif has_commit(root, start['commit']) is False:
            yield f'the commit {start["commit"]} of the {what} of {start["date"]} is not in this repository: fetch it'


def of_model(record: dict, cfg: Config) -> Iterator[str]:
    """A model of another size."""
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        params = sum(parameter.numel() for parameter in MODELS.build(cfg.model).parameters())
    if record['params'] != params:
        yield f'its model has {record["params"]:,} parameters, and that of {record["config"]["path"]} has {params:,}'


def of_images(record: dict, cfg: Config, images: Mapping[str, int]) -> Iterator[str]:
    """A test on other images than those of the official test set, or without annotations."""
    expected = images[cfg.default_scope]
    if record['images'] != expected:
        yield f'its test had {record["images"]} images, and the official test set has {expected}'
    if not record['annotations'] and cfg.default_scope != 'mmengine':  # whose classes are the names of folders
        yield 'its annotations are unknown: repeat the test with the annotations where the config has them'


def of_schedule(training: dict, cfg: Config) -> Iterator[str]:
    """A training of another length or batch, or one whose beginning is not known."""
    unit = 'epochs' if 'max_epochs' in cfg.train_cfg else 'iterations'
    recipe = cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters
    if training[unit] != recipe:
        yield f'its checkpoint was trained for {training[unit]} {unit}, and the recipe has {recipe}'
    if first := training['starts'][0]['iteration']:
        yield f'its checkpoint does not say how the first {first} iterations were trained: train it by tools/train.py'
    for i, start in enumerate(training['starts']):
        images = settings(start['config']).get(BATCH, '')
        if not images.isdecimal():
            raise UserError(f'training.starts.{i}.config of the record does not say {BATCH}')
        images = int(images) * cfg.optim_wrapper.get('accumulative_counts', 1)
        batch, recipe = sum(start['devices'].values()) * images, cfg.get('auto_scale_lr', {}).get('base_batch_size')
        if recipe and batch != recipe:
            yield f"its global batch was {batch} from iteration {start['iteration']} on, and the recipe's is {recipe}"


def of_checkpoint(record: dict, checkpoint: Path | None) -> Iterator[str]:
    """A checkpoint that is another file than the tested one."""
    stated = record['checkpoint']
    if checkpoint is None and stated['url']:
        cache, name = Path(torch.hub.get_dir(), 'checkpoints'), Path(urlparse(stated['url']).path).name
        checkpoint = next((path for path in cache.rglob('*') if path.name == name), None)
    if checkpoint is None:
        return
    found = identity(checkpoint)['sha256']
    if found != stated['sha256']:
        yield f'the SHA-256 of {checkpoint} is {found}, and that of the tested checkpoint was {stated["sha256"]}'
        return
    written = training_of(read_checkpoint(checkpoint).get('meta', {}), checkpoint.parent)
    for key in ('epochs', 'iterations', 'hours', 'starts'):
        if written[key] != record['training'][key]:
            yield f'training.{key} is not what {checkpoint} says'


def of_logs(path: Path, record: dict, checkpoint: Path | None) -> Iterator[str]:
    """Training logs that are missing or changed, or whose last validation has other scores."""
    training, lines = record['training'], []
    stated = {log['path']: log['sha256'] for log in training['logs']}
    for name in dict.fromkeys(start['log'] for start in training['starts']):
        log = find_log(path, name, checkpoint)
        if log is None or name not in stated:
            yield f'the training log {name} is missing: put it beside the checkpoint, and repeat the test'
            return
        if identity(log)['sha256'] != stated[name]:
            yield f'the training log {log} has changed since the test: repeat the test'
            return
        lines += read_log(log)
    scores = record['scores']
    last = next((line for line in reversed(lines) if line.keys() & scores.keys()), {})
    if last.get('step') not in (training['epochs'], training['iterations']):
        yield f'the training log does not end with a validation of the checkpoint, iteration {training["iterations"]}'
        return
    if lacking := sorted(last.keys() - NOT_SCORES - scores.keys()):
        yield f'it lacks scores of the last validation in the training log: {", ".join(lacking)}'
    for name, score in scores.items():
        points = 100 if name.startswith('coco/') else 1  # mmdet's scores are out of 1
        if not isinstance(last.get(name), NUMBER) or not abs(score - last[name]) * points <= TOLERANCE:
            yield f'{name} was {score:.4g} in the test, and {last.get(name)} in the last validation of the training log'


def log_name(record: Path, name: str) -> str:
    """The name of a training log beside a record of the tables."""
    return f'{record.stem}.{Path(name).parts[0]}.jsonl'


def find_log(record: Path, name: str, checkpoint: Path | None) -> Path | None:
    """A training log: beside a record of the tables, in the work directory of the test, or beside the checkpoint."""
    places = [record.parent / log_name(record, name), record.parent.parent / name]
    places += [checkpoint.parent / name] if checkpoint else []
    return next((place for place in places if place.is_file()), None)


def add(path: Path, checkpoint: Path | None, url: str | None, folder: Path = RECORDS) -> Path:
    """Copy a good record and its logs to those of the tables.

    Returns:
        The copy.
    """
    record = read_record(path)
    copy = folder / f'{Path(record["config"]["path"]).stem}.json'
    for log in record['training']['logs']:
        with atomic_file(folder / log_name(copy, log['path'])) as temporary:
            temporary.write_bytes(find_log(path, log['path'], checkpoint).read_bytes())
    record['checkpoint']['url'] = url or record['checkpoint']['url']
    write_json(copy, record)
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('record', nargs='?', type=Path, help='record (default: all of the tables)')
    parser.add_argument('--checkpoint', type=Path, help='file of the checkpoint that was tested')
    parser.add_argument('--add', action='store_true', help='copy the record and its logs to those of the tables')
    parser.add_argument('--url', help='where the checkpoint is published')
    args = parser.parse_args()
    if (args.checkpoint or args.add or args.url) and not args.record:
        raise UserError('--checkpoint, --add and --url belong to one record: name it')
    if args.add and not args.checkpoint:
        raise UserError('--add needs the file that was tested: name it by --checkpoint')
    records = [args.record] if args.record else sorted(RECORDS.glob('*.json'))
    found = {path: problems(path, args.checkpoint) for path in records}
    for path, lines in found.items():
        print(*(f'{path}: {line}' for line in lines or ['good']), sep='\n')
    if any(found.values()):
        sys.exit(1)
    if args.add:
        print(f'added: {add(args.record, args.checkpoint, args.url)}')


if __name__ == '__main__':
    run(main)
