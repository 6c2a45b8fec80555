"""Settings of pipelines that spoil scores without an error, found in a config before anything is built from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mmengine.config import Config

# transforms of mmcv, mmdet and mmseg that move pixels in a way that predictions are not moved back
MOVING = (
    *('RandomFlip', 'RandomCrop', 'CenterCrop', 'MinIoURandomCrop', 'RandomCenterCropPad', 'Expand', 'Mosaic'),
    *('MixUp', 'CachedMosaic', 'CachedMixUp', 'CopyPaste', 'RandomMosaic', 'RandomAffine', 'RandomShift', 'Rotate'),
    *('ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'GeomTransform', 'RandomRotate', 'RandomRotFlip'),
)
AUGMENTED_TESTS = ('TestTimeAug', 'MultiScaleFlipAug')  # which note how they move pixels
MOSTLY_PADDING = 0.75  # share of a batch; two recipes of mmseg pad 36 % and 68 %


def pipeline_problems(cfg: Config, split: str) -> Iterator[str]:
    """Find settings of the pipelines of a data loader that train or score something else than they should.

    Args:
        cfg: A config of mmdet or mmseg.
        split: ``'train'``, ``'val'`` or ``'test'``.

    Yields:
        A message for each problem: pixels that are normalised twice, pixels that move in a validation or a test, and
        batches that are mostly padding.
    """
    normalised = normalises(cfg)
    for key, steps in pipelines(cfg, split):
        for step in _flat(steps, augmented_tests=True):
            if type_name(step) == 'Normalize' and normalised:
                yield (
                    f'{key} has Normalize, and model.data_preprocessor.mean normalises the pixels once more: remove '
                    'Normalize from the pipeline'
                )
        if split != 'train':
            yield from _moved_pixels(key, steps, cfg)
    if split == 'train':
        yield from _crop_problems(cfg)


def padded_share(cfg: Config) -> tuple[str, float] | None:
    """Compare the size of a segmentor's training batches with the training crop.

    Returns:
        The setting to change, and the share of each batch that is padding; ``None`` if there is no such crop or if the
        size is not set.
    """
    preprocessor, crop = _segmentation_preprocessor(cfg), _training_crop(cfg)
    if preprocessor is None or crop is None or not preprocessor.get('size'):
        return None
    height, width = (max(pair) for pair in zip(preprocessor['size'], crop, strict=True))
    return f'model.data_preprocessor.size={crop}', 1 - crop[0] * crop[1] / (height * width)


def crop_above_size(cfg: Config) -> str | None:
    """Describe a training crop of a segmentor that is larger than the size to which its preprocessor pads.

    Such a training works if no image is smaller than the crop.

    Returns:
        A sentence with the setting to change; ``None`` if the crop is not larger, or if there is no crop or no size.
    """
    preprocessor, crop = _segmentation_preprocessor(cfg), _training_crop(cfg)
    if preprocessor is None or crop is None or not preprocessor.get('size'):
        return None
    size = tuple(preprocessor['size'])
    if crop[0] <= size[0] and crop[1] <= size[1]:
        return None
    return (
        f'model.data_preprocessor.size is {size}, which is smaller than the training crop {crop}: a batch with an '
        f'image that is smaller than the crop fails. Set model.data_preprocessor.size={crop}'
    )


def pipelines(cfg: Config, split: str) -> Iterator[tuple[str, Sequence[Mapping]]]:
    """The pipelines of a data loader, each with its key in the config; those of wrappers come first."""
    key = f'{split}_dataloader.dataset'
    yield from _pipelines_in(key, (cfg.get(f'{split}_dataloader') or {}).get('dataset'))


def normalises(cfg: Config) -> bool:
    """Whether the model's data preprocessor changes the range of the pixels."""
    preprocessor = (cfg.get('model') or {}).get('data_preprocessor') or {}
    preprocessor = preprocessor.get('data_preprocessor') or preprocessor  # of a semi-supervised detector
    mean, std = preprocessor.get('mean'), preprocessor.get('std') or [1]
    return mean is not None and (any(mean) or any(value != 1 for value in std))


def type_name(step: Mapping) -> str:
    """The name of a transform's class, without the scope of a registry."""
    type_ = step.get('type')
    return type_.split('.')[-1] if isinstance(type_, str) else getattr(type_, '__name__', '')


def _pipelines_in(key: str, dataset: object) -> Iterator[tuple[str, Sequence[Mapping]]]:
    if not isinstance(dataset, Mapping):
        return
    if isinstance(dataset.get('pipeline'), Sequence):
        yield f'{key}.pipeline', [step for step in dataset['pipeline'] if isinstance(step, Mapping)]
    yield from _pipelines_in(f'{key}.dataset', dataset.get('dataset'))
    for i, part in enumerate(dataset.get('datasets') or ()):
        yield from _pipelines_in(f'{key}.datasets.{i}', part)


def _flat(steps: object, augmented_tests: bool = False) -> Iterator[Mapping]:
    """The steps of a pipeline and those inside steps such as RandomApply.

    Args:
        steps: A step, a list of steps, or a list of such lists.
        augmented_tests: Whether the steps inside test-time augmentations count, too.
    """
    if isinstance(steps, Mapping):
        yield steps
        if augmented_tests or type_name(steps) not in AUGMENTED_TESTS:
            yield from _flat(steps.get('transforms') or (), augmented_tests)
    elif isinstance(steps, Sequence) and not isinstance(steps, str):
        for step in steps:
            yield from _flat(step, augmented_tests)


def _moved_pixels(key: str, steps: Sequence[Mapping], cfg: Config) -> Iterator[str]:
    """Find the transforms of a validation or a test that move pixels away from their labels."""
    is_labelled = cfg.get('default_scope') != 'mmseg'  # an annotation file has the labels
    for step in _flat(steps):
        name = type_name(step)
        is_labelled = is_labelled or name in ('LoadAnnotations', 'LoadMasks')
        if name == 'RandomFlip' and not is_labelled:
            continue  # mmseg turns the prediction back
        is_off = step.get('prob', 1) in (None, 0) or step.get('test_mode')
        if name in MOVING and not is_off:
            yield (
                f'{key} has {name}, which moves the pixels, and the predictions are compared with labels that do not '
                f'move: remove {name} from the pipelines of validations and tests'
            )


def _crop_problems(cfg: Config) -> Iterator[str]:
    """Compare the size of a segmentor's training batches with the training crop."""
    preprocessor, crop = _segmentation_preprocessor(cfg), _training_crop(cfg)
    if preprocessor is None or preprocessor.get('size_divisor'):
        return
    size = preprocessor.get('size')
    if not size:
        yield (
            'model.data_preprocessor.size is not set: set it to the training crop, as in '
            f'model.data_preprocessor.size={crop or (512, 512)}'
        )
    elif crop is not None and padded_share(cfg)[1] >= MOSTLY_PADDING:
        yield (
            f'model.data_preprocessor.size is {tuple(size)}, and the training crop is {crop}: '
            f'{padded_share(cfg)[1]:.0%} of each batch would be padding. Set model.data_preprocessor.size={crop}'
        )


def _segmentation_preprocessor(cfg: Config) -> Mapping | None:
    preprocessor = (cfg.get('model') or {}).get('data_preprocessor')
    if isinstance(preprocessor, Mapping) and type_name(preprocessor) == 'SegDataPreProcessor':
        return preprocessor
    return None


def _training_crop(cfg: Config) -> tuple[int, int] | None:
    """Height and width of the images that the training pipeline gives; ``None`` if they have no fixed size."""
    size = None
    for step in next(iter(steps for _, steps in pipelines(cfg, 'train')), ()):
        name = type_name(step)
        if name == 'RandomCrop':
            size = step.get('crop_size')
        elif name == 'Pad' and step.get('size'):
            size = _reversed(step['size'])
        elif name == 'Resize' and step.get('scale') and not step.get('keep_ratio'):
            size = _reversed(step['scale'])
        elif 'Resize' in name or 'Mosaic' in name or name == 'Pad':
            size = None
    if isinstance(size, int):
        return size, size
    return tuple(size) if isinstance(size, Sequence) and len(size) == 2 else None


def _reversed(size: int | Sequence[int]) -> int | list[int]:
    """(height, width) of (width, height)."""
    return list(reversed(size)) if isinstance(size, Sequence) else size
