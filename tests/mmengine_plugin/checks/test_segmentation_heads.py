"""Settings of mmseg's heads that fail in the first iteration, or lower the scores, are refused or reported before."""

import pytest
import torch

from backbones import UserError
from mmengine_plugin.checks.segmentation_heads import check_class_weights, check_single_channel
from tests.mmengine_plugin.checks.small_samples import logged_warnings, part_with

CROSS_ENTROPY = dict(_delete_=True, type='CrossEntropyLoss')
SIGMOID = dict(CROSS_ENTROPY, use_sigmoid=True)


def options(loss: dict | list, classes: int = 2, **settings) -> dict:
    """Options for both heads."""
    heads = ('decode_head', 'auxiliary_head')
    shared = dict(settings, num_classes=classes)
    return {f'model.{head}.{key}': value for head in heads for key, value in dict(shared, loss_decode=loss).items()}


def loss_of(model: torch.nn.Module, width: int) -> dict:
    """The loss of the auxiliary head on logits of zeros, for labels of both classes."""
    head = model.auxiliary_head
    labels = torch.arange(4 * width).reshape(1, 4, width) % 2
    return head.loss_decode(torch.zeros(1, head.out_channels, 4, width), labels, ignore_index=255)


def test_one_channel_with_a_softmax_is_refused():
    """mmseg's issues 2201 and 2607."""
    part = part_with('segmentation', options(CROSS_ENTROPY, out_channels=1))
    with pytest.raises(IndexError, match='Target 1 is out of bounds'):
        loss_of(part.model, 8)
    with pytest.raises(UserError, match=r'^model\.decode_head\.out_channels is 1, and .*loss_decode is a softmax'):
        check_single_channel(part)
    check_single_channel(part_with('segmentation', options(CROSS_ENTROPY)))


def test_the_default_threshold_of_one_channel_is_reported():
    """mmseg's issue 2206."""
    part = part_with('segmentation', options(SIGMOID, out_channels=1))
    loss_of(part.model, 8)
    with logged_warnings() as messages:
        check_single_channel(part)
    (message,) = messages
    assert 'above 0.3 for class 1: for the more probable class, set model.decode_head.threshold=0.5' in message
    with logged_warnings() as messages:
        check_single_channel(part_with('segmentation', options(SIGMOID, out_channels=1, threshold=0.5)))
    assert messages == []


@pytest.mark.parametrize('weights', [[1.0], [1.0, 2.0, 3.0]])
def test_class_weights_of_another_number_than_the_classes_are_refused(weights):
    """mmseg's issues 3811 and 2723."""
    part = part_with('segmentation', options(dict(CROSS_ENTROPY, class_weight=weights)))
    with pytest.raises(RuntimeError, match='weight tensor should be defined either for all'):
        loss_of(part.model, 8)
    message = (
        rf'^model\.decode_head\.loss_decode\.class_weight has {len(weights)} weights, and .*num_classes is 2: write one'
    )
    with pytest.raises(UserError, match=message):
        check_class_weights(part)


def test_class_weights_in_a_list_of_losses_are_checked():
    dice = dict(type='TverskyLoss', class_weight=[1.0])
    part = part_with('segmentation', options([dict(type='CrossEntropyLoss', class_weight=[1.0, 2.0]), dice]))
    with pytest.raises(UserError, match=r'loss_decode\.1\.class_weight has 1 weights'):
        check_class_weights(part)
    dice['class_weight'] = [1.0, 1.0]
    check_class_weights(part_with('segmentation', options([dict(type='CrossEntropyLoss'), dice])))


def test_class_weights_with_a_sigmoid_are_refused_since_they_weight_columns():
    part = part_with('segmentation', options(dict(SIGMOID, class_weight=[1.0, 9.0])))
    with pytest.raises(RuntimeError, match='must match the size of tensor b'):
        loss_of(part.model, 8)
    loss_of(part.model, 2)  # silently, if the image is as wide as there are classes
    with pytest.raises(UserError, match=r'model\.decode_head\.loss_decode has class_weight and use_sigmoid=True'):
        check_class_weights(part)
    check_class_weights(part_with('segmentation', options(dict(SIGMOID, class_weight=[3.0]))))  # of all classes
