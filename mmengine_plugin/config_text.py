"""Values in the text of a config that a program writes."""

from __future__ import annotations


def literal(value: object) -> str:
    """The Python source of a value, in which mmengine finds no ``{{variable}}`` to replace.

    mmengine replaces variables in the text of a config before Python reads it. A class name of a data set from
    elsewhere could otherwise become code.

    Args:
        value: A string, a number, or a tuple, list or dict of these.
    """
    return repr(value).replace('{{', '{\\x7b')
