"""The content of annotation files in COCO's format, and mmdet's index of it."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from unicodedata import normalize

from mmdet.datasets.api_wrappers import COCO

from backbones.errors import UserError
from mmengine_plugin.data.image_checks import Problem

from .class_checks import class_problems

Entry = dict[str, Any]  # an image, an annotation or a category


@dataclass
class AnnotationFile:
    """The content of an annotation file, completed.

    Every image has an ``id`` and a ``file_name``, every category has an ``id`` and a ``name``, and every annotation has
    an ``id``, ``image_id``, ``category_id``, ``bbox``, ``area`` and ``iscrowd``. An image may lack its size.

    Attributes:
        path: The file, for messages.
        content: COCO's ``images``, ``annotations`` and ``categories``, and all else that the file has. It is empty if
            the file cannot be read.
        changes: What was filled in or corrected, each with the number of entries.
        problems: What cannot be filled in.
        doubts: What a training can do without, but may be a mistake.
        unusable: Entries that cannot be used, which are not in ``content``, by the name of their list.
    """

    path: str
    content: dict[str, Any]
    changes: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    doubts: list[Problem] = field(default_factory=list)
    unusable: dict[str, list] = field(default_factory=lambda: defaultdict(list))

    def described_changes(self) -> str:
        """The changes as one line; empty if there are none."""
        return ', '.join(f'{change} ({count})' for change, count in self.changes.items())


class IndexedAnnotations(COCO):
    """mmdet's index of annotations, which maps classes by their names, whatever the order of the file.

    Args:
        file: The annotation file.
    """

    def __init__(self, file: AnnotationFile) -> None:
        super().__init__()
        self.path, self.dataset = file.path, file.content
        self.createIndex()

    def createIndex(self) -> None:
        """Index the annotations."""
        super().createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs

    def get_cat_ids(self, cat_names: Sequence[str] = (), **kwargs) -> list[int | str]:
        """The category ids of class names, in the order of the names.

        Raises:
            UserError: If the file does not have one of the names, or has a name twice.
        """
        if not cat_names:
            return super().get_cat_ids(**kwargs)
        categories = self.dataset['categories']
        refuse(list(class_problems(self.path, cat_names, [category['name'] for category in categories])))
        ids = {category['name']: category['id'] for category in categories}
        return [ids[name] for name in cat_names]


def class_name(name: object) -> str:
    """The name of a class as a string with composed letters.

    An accent may also be a character of its own. This looks the same, and macOS writes it so.
    """
    return normalize('NFC', str(name))


def refuse(problems: Sequence[Problem]) -> None:
    """Raise an error if there are problems; it describes those of the first kind.

    Raises:
        UserError: If there is a problem.
    """
    if not problems:
        return
    first = problems[0]
    details = [problem.detail for problem in problems if problem.kind == first.kind]
    listed = '; '.join(details[:4])
    if len(details) > 4:
        listed += f' and {len(details) - 4} more'
    raise UserError(f'{first.file}: {first.kind}: {listed}; {first.fix}')
