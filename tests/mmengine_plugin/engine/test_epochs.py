"""A training by epochs over a sampler without an end is refused, with settings that train by epochs."""

import re
from pathlib import Path

from mmengine.config import Config

from tests.conftest import SEGMENTATION
from tests.mmengine_plugin.checks.test_check_run import assert_refused_early
from tests.mmengine_plugin.engine.runs import train_in_a_process
from tests.mmengine_plugin.engine.small_recipes import BACKBONE, UPERNET, UPERNET_PIPELINE, merge

BY_EPOCHS = "train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=2)"


def settings(folder: Path, text: str) -> Config:
    """A config of a user that inherits from the recipe for UperNet, with a small model."""
    (folder / 'mine.py').write_text(f'_base_ = {str(SEGMENTATION)!r}\n{text}')
    cfg = Config.fromfile(folder / 'mine.py', format_python_code=False)
    merge(cfg, BACKBONE | UPERNET)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.update(batch_size=4)
    cfg.train_dataloader.dataset.pipeline = UPERNET_PIPELINE
    cfg.work_dir = str(folder / 'w')
    return cfg


def test_epochs_without_an_end_are_refused_and_the_settings_in_the_message_train(mini_data, tmp_path, monkeypatch):
    """mmseg's issues 2777, 2912 and 2566."""
    monkeypatch.chdir(mini_data)
    for text in (BY_EPOCHS, BY_EPOCHS.replace("type='EpochBasedTrainLoop'", 'by_epoch=True')):
        result = train_in_a_process(tmp_path / 'log', settings(tmp_path, text))
        assert_refused_early(result, 'train_dataloader.sampler.type=InfiniteSampler never ends an epoch')
    pasted = re.search('all of these settings: (.*)', result[1])[1]
    code, output = train_in_a_process(tmp_path / 'log', settings(tmp_path, pasted))
    assert code == 0 and 'Epoch(train) [2][2/2]' in output and 'THE SCHEDULE' not in output, output[-3000:]
    assert (tmp_path / 'w/epoch_2.pth').is_file() and output.count('Epoch(val)') == 2
