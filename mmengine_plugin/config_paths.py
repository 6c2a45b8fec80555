"""Where our configs are, so that configs anywhere can inherit them."""

from __future__ import annotations

from pathlib import Path

from backbones.errors import UserError, did_you_mean

_package = Path(__file__).resolve().parent
ROOT = _package if (_package / 'configs').is_dir() else _package.parent  # of an installed package, or of a checkout


def config(name: str) -> str:
    """The path of one of our configs, so that configs anywhere can inherit it.

    Args:
        name: Path of a config relative to ``configs/``, without ``.py``: ``'mask_rcnn_mambaout_tiny'`` or
            ``'vmamba/mask_rcnn_vmamba_tiny'``.

    Returns:
        The absolute path, in a checkout as in an installed package.

    Raises:
        UserError: If there is no such config; it names the nearest one.

    Example:
        In a config of one's own, anywhere on disk::

            _base_ = __import__('mmdet_plugin').config('mask_rcnn_mambaout_tiny')
    """
    folder = ROOT / 'configs'
    path = folder / f'{name}.py'
    if not path.is_file():
        known = [str(p.relative_to(folder).with_suffix('')) for p in folder.rglob('*.py')]
        raise UserError(f'no config {name!r} in {folder}{did_you_mean(name, known)}')
    return str(path)
