"""tools/compare.py as a user runs it."""

import json

from tests.conftest import DETECTION, ROOT

OPTIONS = (
    '--parts',
    'step',
    'receptive',
    'growth',
    '--shape',
    '1x64x96',
    '--rounds',
    1,
    '--field-size',
    64,
    '--sizes',
    64,
    96,
)


def test_two_detectors_are_compared_and_a_config_that_fails_is_named_at_the_end(tool, tmp_path):
    (tmp_path / 'vit.py').write_text(
        f"_base_ = '{DETECTION}'\n"
        "model = dict(backbone=dict(_delete_=True, type='ViT', arch=dict(dim=32, depth=4, heads=2), causal=True),\n"
        '             neck=dict(in_channels=[32, 32, 32, 32]))\n'
    )
    (tmp_path / 'wrong.py').write_text(f"_base_ = '{DETECTION}'\nmodel = dict(backbone=dict(arch='unknown'))\n")
    configs = DETECTION, tmp_path / 'vit.py', tmp_path / 'wrong.py'
    done = tool('compare.py', tmp_path / 'out', *configs, *OPTIONS)
    assert done.returncode == 1, done.stdout[-3000:]
    assert 'error: not all could be measured: wrong, build: ' in done.stdout.splitlines()[-1]
    found = json.loads((tmp_path / 'out.json').read_text())
    assert found['parts']['step']['shape'] == [1, 64, 96] and 'tools/compare.py' in found['parts']['step']['command']
    mini, vit, wrong = found['models'].values()
    assert mini['step']['step']['ratio'] == 1 and vit['step']['step']['ratio'] != 1
    assert vit['receptive']['reach'] == dict(left=32, right=15, up=32, down=15)
    assert mini['receptive']['whole_image'] and set(wrong['growth']) == {'errors'}
    for model in (mini, vit):
        assert model['step']['kept_gib'] > 0 and 'size' not in model
    text = (tmp_path / 'out.md').read_text()
    assert text in done.stdout and '| `vit` | ' in text and '| 32 / 15 / 32 / 15 |' in text
    assert (tmp_path / 'out.png').stat().st_size > 20_000


def test_wrong_arguments_are_answered_without_a_traceback(tool, tmp_path):
    done = tool('compare.py', 'out', DETECTION, '--checkpoints', 'none.pth', cwd=tmp_path)
    assert done.returncode == 1 and done.stdout.startswith('error: --checkpoints: none.pth is not there')
    done = tool('compare.py', 'out', DETECTION, '--rounds', 0, cwd=tmp_path)
    assert done.returncode == 2 and "'0' is not a positive number" in done.stdout
    assert not list(tmp_path.iterdir()) and (ROOT / 'tools/compare.py').is_file()
