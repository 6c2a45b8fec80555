"""The encoding of logs and of the terminal."""

from __future__ import annotations

import io
import locale
import sys

UTF8_LOCALES = ('C.UTF-8', 'en_US.UTF-8', 'UTF-8')  # names on Linux and macOS


def use_utf8() -> None:
    """Write files in UTF-8, and let the terminal show as escapes what its encoding lacks.

    Where the locale has another encoding, such as GBK or ASCII, mmengine could not write a log with the names of all
    classes and folders. Python asks the locale whenever it opens a file without an encoding.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
    for name in UTF8_LOCALES:
        if locale.getencoding().lower() == 'utf-8':
            return
        try:
            locale.setlocale(locale.LC_CTYPE, name)
        except locale.Error:
            continue  # this machine does not have it
