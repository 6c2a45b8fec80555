"""The benchmark's report is complete, and its figures are of what they name; no test asks how fast anything is."""

import json
import shutil

import pytest
import torch

from benchmarks import programs
from tests.conftest import ROOT, link


def test_the_backbone_is_reported_beside_its_peers(tool, tmp_path):
    out = tmp_path / 'report'
    done = tool('benchmark.py', out, '--suites', 'backbone', '--arch', 'femto', '--shapes', '2x64x96', '--rounds', 2)
    assert done.returncode == 0, done.stdout[-3000:]
    report = json.loads(out.with_suffix('.json').read_text())
    assert (
        {'torch', 'timm', 'mmdet', 'mmsegmentation'} <= set(report['versions'])
        and report['device']
        and 'tools/benchmark.py' in report['command']
    )
    rows = {(row['what'], row['candidate']): row for row in report['rows']}
    assert {what for what, _ in rows} == {'inference', 'step', 'step with drop path'}
    assert [name for what, name in rows if what == 'step with drop path'] == ['timm', 'ours, fused']
    for (what, candidate), row in rows.items():
        assert len(row['seconds']) == 2 and row['low'] <= row['ratio'] <= row['high']
        assert row['ratio'] == 1 or candidate != 'timm'
        assert (what != 'step') or row['roofline'] > 0
    assert rows['step', 'ours, fused']['kept_gib'] < 0.5 * rows['step', 'timm']['kept_gib']
    assert rows['step', 'ours, eager']['kept_gib'] > 0.8 * rows['step', 'timm']['kept_gib']
    assert '| backbone femto, step | 2x64x96 | ours, fused |' in out.with_suffix('.md').read_text()
    assert out.with_suffix('.png').stat().st_size > 10_000


@pytest.mark.full_size
@pytest.mark.parametrize(('suite', 'shape'), [('detection', '1x224x320'), ('segmentation', '2x128x128')])
def test_whole_models_take_steps_behind_one_head(suite, shape, tool, tmp_path):
    out = tmp_path / 'report'
    done = tool('benchmark.py', out, '--suites', suite, '--arch', 'femto', '--shapes', shape, '--rounds', 1)
    assert done.returncode == 0, done.stdout[-3000:]
    rows = json.loads(out.with_suffix('.json').read_text())['rows']
    for what in ('step', 'inference'):
        candidates = [row['candidate'] for row in rows if row['what'] == what]
        assert candidates[0] == 'timm' and {'ours, fused', 'Swin-T'} <= set(candidates)
    for row in rows:
        if row['what'] == 'step' and row['candidate'] in ('timm', 'ours, fused'):
            parts = [seconds for name, seconds in row['host'].items() if ':' not in name]
            assert all(seconds > 0 for seconds in parts) and 0.9 * parts[0] < sum(parts[1:]) < parts[0]
    profiles = [row['profile'] for row in rows if row['what'] == 'step']
    assert all(len(profile) == 10 and 0.5 < sum(profile.values()) <= 1 for profile in profiles)


@pytest.mark.full_size
def test_the_scan_is_reported_beside_the_loop(tool, tmp_path):
    done = tool('benchmark.py', tmp_path / 'report', '--suites', 'scan', '--rounds', 1)
    assert done.returncode == 0, done.stdout[-3000:]
    rows = json.loads((tmp_path / 'report.json').read_text())['rows']
    assert {row['shape'] for row in rows} == {'64000x96, 1 state', '64000x192, 16 states'} and len(rows) == 8
    assert all(row['ratio'] == 1 for row in rows[::2]) and all(row['ratio'] != 1 for row in rows[1::2])


@pytest.mark.full_size
def test_both_test_programs_find_the_same_and_say_how_long_their_phases_take(monkeypatch):
    monkeypatch.setattr(programs, 'IMAGES', 8)
    rows = list(programs.measure_test_program(rounds=1))
    assert [row['ratio'] == 1 for row in rows] == [True, False]
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(rows[0]['scores'])
    for row in rows:
        parts = [seconds for name, seconds in row['host'].items() if ':' not in name]
        assert parts[0] == row['seconds'][0] == pytest.approx(sum(parts[1:]))
        assert all(row['host'][part] > 0 for part in ('loading the images', 'model', 'masks to run lengths', 'scoring'))


@pytest.mark.full_size
def test_the_compiled_kernels_are_reported_for_each_gpu_without_one(tool, tmp_path, monkeypatch):
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    done = tool('benchmark.py', tmp_path / 'report', '--suites', 'compiled')
    assert done.returncode == 0, done.stdout[-3000:]
    rows = json.loads((tmp_path / 'report.json').read_text())['rows']
    assert {row['GPU'] for row in rows} == {'A100', 'H100'}
    assert {'_gate_kernel', '_conv_weight_kernel', '_scan_kernel'} <= {row['kernel'] for row in rows}
    assert all(0 < row['registers'] <= 255 and row['in loops'] <= row['instructions'] for row in rows)
    assert (tmp_path / 'report.md').read_text().startswith('| GPU | what | kernel | warps | registers |')


def test_programs_that_find_other_objects_are_not_compared(monkeypatch):
    results = iter([(1.0, {'whole program': 1.0}, {'coco/bbox_mAP': 0.5}, [dict(score=score)]) for score in (0.1, 0.2)])
    monkeypatch.setattr(programs, 'prepare', lambda folder: 1)
    monkeypatch.setattr(programs, 'run_program', lambda *arguments: next(results))
    with pytest.raises(RuntimeError, match='find other objects'):
        list(programs.measure_test_program(rounds=0))


def test_the_input_side_is_reported_by_transform(tool, tmp_path):
    link(tmp_path, 'coco', 'coco')
    link(tmp_path, 'ade/ADEChallengeData2016', 'ADEChallengeData2016')
    out = tmp_path / 'report'
    done = tool('benchmark.py', out, '--suites', 'input', '--rounds', 1, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    for task, annotations in dict(detection='LoadAnnotations', segmentation='RandomCrop').items():
        rows = [row for row in json.loads(out.with_suffix('.json').read_text())['rows'] if row['what'] == task]
        parts = {row['candidate']: row['ratio'] for row in rows}
        assert parts.pop('whole') == 1 and sum(parts.values()) == pytest.approx(1)
        assert {'LoadImageFromFile', annotations} <= set(parts) and rows[0]['images_per_second'] > 0


def test_a_wrong_size_is_refused(tool, tmp_path):
    done = tool('benchmark.py', tmp_path / 'report', '--suites', 'backbone', '--shapes', '800x1280')
    assert done.returncode == 1 and 'error: --shapes 800x1280: write three numbers' in done.stdout
    done = tool('benchmark.py', tmp_path / 'report', '--suites', 'segmentation', '--shapes', '1x512x512')
    assert done.returncode == 1 and 'UperNet trains on 2 images or more' in done.stdout
    done = tool('benchmark.py', tmp_path / 'report', '--rounds', 0)
    assert done.returncode == 1 and 'error: --rounds 0: write 1 or more' in done.stdout
    done = tool('benchmark.py', tmp_path / 'report', '--suites', 'detection', '--arch', 'tiny', 'small_rw')
    assert done.returncode == 1 and "error: --arch small_rw: timm's own sizes have no recipes" in done.stdout


def test_a_suite_that_fails_does_not_stop_the_others(tool, tmp_path):
    out = tmp_path / 'report'
    arguments = '--suites', 'input', 'backbone', '--arch', 'femto', '--shapes', '1x64x64', '--rounds', 1
    done = tool('benchmark.py', out, *arguments, cwd=tmp_path)  # there are no images of COCO
    assert done.returncode == 1 and 'error: input: ' in done.stdout, done.stdout[-3000:]
    rows = json.loads(out.with_suffix('.json').read_text())['rows']
    assert {row['suite'] for row in rows} == {'input', 'backbone femto'}
    batches = {row['candidate']: row['images_per_second'] for row in rows if row['what'] == 'classification'}
    assert set(batches) == {'timm', 'this project'} and min(batches.values()) > 1  # the suite draws these images


def test_the_suite_of_kernels_needs_cuda(tool, tmp_path):
    if torch.cuda.is_available():
        pytest.skip('this machine has CUDA')
    done = tool('benchmark.py', tmp_path / 'report', '--suites', 'kernels')
    assert done.returncode == 1 and done.stdout.endswith(
        'error: --suites kernels: this suite needs CUDA, and this machine has none\n'
    )


def test_an_installed_package_says_that_benchmarks_run_from_a_checkout(tool, tmp_path):
    shutil.copytree(ROOT / 'tools', tmp_path / 'mmengine_plugin/tools')
    done = tool(tmp_path / 'mmengine_plugin/tools/benchmark.py', 'report', cwd=tmp_path)
    assert done.returncode == 1 and 'error: benchmarks run from a checkout of the repository' in done.stdout
    assert 'Traceback' not in done.stdout
