"""Configs of mmdet and mmseg are found as before, and faster."""

import subprocess
import sys

import pytest
from mmengine.config import Config, utils

import mmengine_plugin  # noqa: F401  (for what it changes)

STOCK = 'from mmengine.config import Config; print(Config.fromfile({path!r}).pretty_text)'


@pytest.mark.parametrize('base', ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 'mmseg::_base_/models/fpn_r50.py'])
def test_a_config_is_that_of_stock_mmengine_and_each_metafile_is_read_once(base, tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(f'_base_ = [{base!r}]')
    done = subprocess.run(
        [sys.executable, '-c', STOCK.format(path=str(path))], capture_output=True, text=True, check=True
    )
    assert Config.fromfile(path).pretty_text == done.stdout.removesuffix('\n')
    read = utils.load.cache_info().misses
    Config.fromfile(path)
    assert utils.load.cache_info().misses == read > 50


def test_a_config_that_is_not_there_is_still_an_error(tmp_path):
    (tmp_path / 'mine.py').write_text("_base_ = 'mmdet::retinanet/retinanet_r51.py'")
    with pytest.raises(FileNotFoundError):
        Config.fromfile(tmp_path / 'mine.py')
