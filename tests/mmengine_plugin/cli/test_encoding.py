"""Under a locale without UTF-8, logs hold all characters and the terminal shows escapes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmengine_plugin.cli import encoding

SCRIPT = """
import logging, runpy, sys
if sys.argv[1] == 'ours':
    runpy.run_path(sys.argv[2])['use_utf8']()
logging.raiseExceptions = True
logging.basicConfig(handlers=[logging.FileHandler('log'), logging.StreamHandler(sys.stdout)])
logging.warning('\\u732b')
"""


@pytest.mark.parametrize('which', ['ours', 'none'])
def test_a_log_under_a_locale_of_ascii_holds_chinese_names(which, tmp_path):
    environment = os.environ | dict(LC_ALL='C', PYTHONCOERCECLOCALE='0', PYTHONUTF8='0')
    environment.pop('PYTHONIOENCODING', None)
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, which, Path(encoding.__file__)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
    )
    log = (tmp_path / 'log').read_text('utf-8')
    if which == 'ours':
        assert '\u732b' in log and rb'\u732b' in done.stdout and not done.stderr
    else:  # the case is a real one
        assert '\u732b' not in log and b'UnicodeEncodeError' in done.stderr
