"""The exception for problems that the user can fix."""

import difflib
from collections.abc import Iterable
from pathlib import PurePath


class UserError(ValueError):
    """A mistake in a config, a command line, a file or a data set.

    The message says what is wrong, where, and what to do. The programs in ``tools/`` print it without a traceback and
    exit with code 1.
    """


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Suggest the entry of ``known`` nearest to ``word``. A path with the same file name in another folder comes first.

    Returns:
        A phrase such as ``" (did you mean 'tiny'?)"``, or an empty string if no entry is similar enough.
    """
    known = list(known)
    same_name = [entry for entry in known if PurePath(entry).name == PurePath(word).name]
    near = same_name or difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    return f' (did you mean {near[0]!r}?)' if near else ''
