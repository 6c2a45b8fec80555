"""Top-1, top-5 and reassessed labels are counted as timm counts them."""

import json

import pytest
import torch
from timm.data import RealLabelsImagenet
from timm.utils import accuracy

from backbones.errors import UserError
from timm_plugin.accuracy import TopKAccuracy

IMAGES, CLASSES = 60, 1000


@pytest.fixture
def predictions() -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Scores in favour of a label that is often wrong, the true labels, and names of files."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (IMAGES,), generator=generator)
    scores = torch.randn(IMAGES, CLASSES, generator=generator)
    scores[torch.arange(IMAGES), labels] += 3
    return scores, labels, [f'val/n01440764/ILSVRC2012_val_{i:08}.JPEG' for i in range(1, IMAGES + 1)]


def score(predictions, padding: int = 0, **arguments: object) -> dict[str, float]:
    """The scores of the metric, which gets the images in batches of 7; some of them once more, as padding."""
    metric = TopKAccuracy(**arguments)
    samples = [
        dict(pred_scores=scores, gt_label=int(label), img_path=path)
        for scores, label, path in zip(*predictions, strict=True)
    ]
    samples += samples[:padding]
    for i in range(0, len(samples), 7):
        metric.process({}, samples[i : i + 7])
    return metric.evaluate(IMAGES)


def test_top_1_and_top_5_are_timms(predictions):
    top1, top5 = accuracy(predictions[0], predictions[1], topk=(1, 5))
    assert 10 < top1 < top5 < 100
    assert score(predictions) == pytest.approx({'accuracy/top1': float(top1), 'accuracy/top5': float(top5)}, rel=1e-6)
    assert set(score(predictions, topk=(3,))) == {'accuracy/top3'}


def test_fewer_classes_than_k_are_all_found():
    samples = [dict(pred_scores=torch.tensor([0.2, 0.5, 0.3]), gt_label=0)]
    metric = TopKAccuracy()
    metric.process({}, samples)
    assert metric.evaluate(1) == {'accuracy/top1': 0, 'accuracy/top5': 100}


@pytest.mark.parametrize('source', ['timm', 'file'])
def test_reassessed_labels_are_counted_as_by_timm(predictions, source, tmp_path):
    path = None
    if source == 'file':  # every other image has no label, the others have two
        lists = [[] if i % 2 else [i % CLASSES, (i * 7) % CLASSES] for i in range(50_000)]
        (path := tmp_path / 'real.json').write_text(json.dumps(lists))
    names = [f'ILSVRC2012_val_{i:08}.JPEG' for i in range(1, 50_001)]
    timms = RealLabelsImagenet(names, real_json=path)
    scores, labels, paths = predictions
    for i in range(0, IMAGES, 3):  # so that some of the reassessed labels are found
        scores[i, timms.real_labels[names[i]][-1:]] += 5
    timms.add_result(scores)
    found = score((scores, labels, paths), real_labels=str(path or 'timm'))
    expected = {f'accuracy/top{k}': accuracy for k, accuracy in timms.get_accuracy().items()}
    assert 5 < found['accuracy/top1'] < 100 and found == pytest.approx(expected)
    assert found != pytest.approx(score((scores, labels, paths)))
    # images that several processes get once more, so that each has as many, are not counted
    assert found == score((scores, labels, paths), padding=9, real_labels=str(path or 'timm'))


def test_images_without_a_reassessed_label_are_named(predictions):
    scores, labels, _ = predictions
    with pytest.raises(UserError, match=r'has no cat.jpg: it is for the validation images of ImageNet'):
        score((scores, labels, ['val/cat/cat.jpg'] * IMAGES), real_labels='timm')


@pytest.mark.parametrize('text', [None, '{', '5', '[1, 2]'])
def test_a_file_of_labels_that_cannot_be_read_is_refused(text, tmp_path):
    if text is not None:
        (tmp_path / 'real.json').write_text(text)
    with pytest.raises(UserError, match=r'--real-labels .*real.json cannot be read'):
        TopKAccuracy(real_labels=str(tmp_path / 'real.json'))
