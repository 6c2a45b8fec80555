"""The benchmark's report is complete, and its figures are of what they name; no test asks how fast anything is."""

import json
import shutil

import pytest

from tests.conftest import ROOT, link


def test_the_backbone_is_reported_beside_its_peers(tool, tmp_path):
    out = tmp_path / 'report'
    done = tool('benchmark.py', out, '--suites', 'backbone', '--arch', 'femto', '--shapes', '1x64x96', '--rounds', 2)
    assert done.returncode == 0, done.stdout[-3000:]
    report = json.loads(out.with_suffix('.json').read_text())
    assert (
        {'torch', 'timm', 'mmdet', 'mmsegmentation'} <= set(report['versions'])
        and report['device']
        and 'tools/benchmark.py' in report['command']
    )
    rows = {(row['what'], row['candidate']): row for row in report['rows']}
    assert {what for what, _ in rows} == {'inference', 'step'}
    for (what, candidate), row in rows.items():
        assert len(row['seconds']) == 2 and row['low'] <= row['ratio'] <= row['high']
        assert row['ratio'] == 1 or candidate != 'timm'
        assert (what != 'step') or row['roofline'] > 0
    assert rows['step', 'ours, fused']['kept_gib'] < 0.5 * rows['step', 'timm']['kept_gib']
    assert rows['step', 'ours, eager']['kept_gib'] > 0.8 * rows['step', 'timm']['kept_gib']
    assert '| backbone femto, step | 1x64x96 | ours, fused |' in out.with_suffix('.md').read_text()
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
        assert candidates[0] == 'timm' and {'ours, eager', 'ours, fused', 'Swin-T'} <= set(candidates)
    profiles = [row['profile'] for row in rows if row['what'] == 'step']
    assert all(len(profile) == 10 and 0.5 < sum(profile.values()) <= 1 for profile in profiles)


@pytest.mark.full_size
def test_the_scan_is_reported_beside_the_loop(tool, tmp_path):
    done = tool('benchmark.py', tmp_path / 'report', '--suites', 'scan', '--rounds', 1)
    assert done.returncode == 0, done.stdout[-3000:]
    rows = json.loads((tmp_path / 'report.json').read_text())['rows']
    assert {row['shape'] for row in rows} == {'64000x96, 1 state', '64000x192, 16 states'} and len(rows) == 8
    assert all(row['ratio'] == 1 for row in rows[::2]) and all(row['ratio'] != 1 for row in rows[1::2])


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


def test_an_installed_package_says_that_benchmarks_run_from_a_checkout(tool, tmp_path):
    shutil.copytree(ROOT / 'tools', tmp_path / 'mmengine_plugin/tools')
    done = tool(tmp_path / 'mmengine_plugin/tools/benchmark.py', 'report', cwd=tmp_path)
    assert done.returncode == 1 and 'error: benchmarks run from a checkout of the repository' in done.stdout
    assert 'Traceback' not in done.stdout
