"""The images of a batch, whatever their framework packs them in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mmengine.structures import BaseDataElement


def parts_of(values: object) -> Iterator[object]:
    """The parts of nested dicts and lists: a semi-supervised batch has several branches."""
    if isinstance(values, Mapping):
        values = values.values()
    elif not isinstance(values, list | tuple):
        yield values
        return
    for value in values:
        yield from parts_of(value)


def image_paths(batch: Mapping) -> str:
    """The names of the images of a batch, each once."""
    samples = [sample for sample in parts_of(batch.get('data_samples')) if isinstance(sample, BaseDataElement)]
    paths = [sample.get('img_path', 'without a name') for sample in samples]
    return ', '.join(dict.fromkeys([*paths, *batch.get('img_path', ())]))  # an image may be in several branches
