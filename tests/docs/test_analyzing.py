"""The commands of docs/analyzing.md run as they are typed, and the scores of the analysis are those of test.py."""

import json
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from tests.conftest import DETECTION, ROOT, SEGMENTATION

COMMANDS = [
    words
    for block in re.findall(r'```bash\n(.*?)```', (ROOT / 'docs/analyzing.md').read_text(), re.DOTALL)
    for words in (line.removeprefix('python tools/').split() for line in block.splitlines())
]


@pytest.mark.parametrize(('name', 'config'), [('detector', DETECTION), ('segmentor', SEGMENTATION)])
def test_the_analysis_of_typed_commands_has_the_scores_of_the_test(tmp_path, tool, mini_data, name, config):
    for folder in ('configs', 'tools'):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / 'data').symlink_to(mini_data / 'data')
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta={}), tmp_path / f'{name}.pth')
    test, analyze = (words for words in COMMANDS if words[1] == f'configs/mini/{config.name}')
    outputs = []
    for words in (test, analyze):
        done = tool(*words, cwd=tmp_path)
        assert done.returncode == 0, (words, done.stdout[-2000:])
        outputs.append(done.stdout)
    scores = json.loads((tmp_path / f'{name}.json').read_text())
    folder = tmp_path / (analyze[4] if '--out-dir' in analyze else 'detections_analysis')
    assert json.loads((folder / 'analysis.json').read_text())['scores'] == scores
    first = next(line for line in outputs[1].splitlines() if 'mIoU' in line or 'mAP' in line)
    assert first == ', '.join(f'{key} {value:g}' for key, value in scores.items())
    assert (folder / 'worst_images.png').is_file()
