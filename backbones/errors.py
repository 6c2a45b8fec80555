"""The one exception that means 'the user can mend this'."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in a config, a command line, a file or a data set, told as one message: what, where, and what to do.

    The programs in ``tools/`` print the message alone, without a traceback, and exit with code 1.
    """


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """``" (did you mean 'tiny'?)"`` for the entry of ``known`` that is nearest to ``word``; empty if none is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    return f' (did you mean {near[0]!r}?)' if near else ''
