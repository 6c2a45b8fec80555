"""Backbones with a classification head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from backbones.base import IsotropicBackbone
from backbones.errors import UserError
from backbones.s6 import init_layers

for _loss in (BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy):
    MODELS.register_module(module=_loss)


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """A backbone with the head that it has on ImageNet.

    For MambaOut, this is the complete model of the published weights, which :meth:`load_state_dict` reads under timm's
    and the authors' names. The others have ConvNeXt's head: mean, LayerNorm and a linear layer, without class tokens.
    A detector or segmentor starts from a checkpoint of this model by its backbone's ``init_cfg``.

    Args:
        backbone: Config of a backbone of :mod:`backbones`, with four stages.
        num_classes: Length of the logits.
        loss: Config of a loss that takes logits ``(B, num_classes)``, and the soft labels of that shape or the indices
            ``(B,)`` that ``collate_fn`` gives.
        data_preprocessor: Config of the :class:`~timm_plugin.preprocessor.ImagePreprocessor`.

    Raises:
        UserError: If ``num_classes`` is no such number, or if the backbone has batch norms and the config does not say
            how they are trained.
    """

    def __init__(
        self,
        backbone: Mapping,
        num_classes: int = 1000,
        loss: Mapping | None = None,
        data_preprocessor: Mapping | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        if type(num_classes) is not int or num_classes < 1:
            raise UserError(f'model.num_classes is {num_classes!r}: set the number of classes, from 1')
        self.num_classes = num_classes
        self.backbone = MODELS.build(dict(out_indices=(3,), out_norm=False) | dict(backbone))
        has_batch_norm = any(isinstance(module, nn.BatchNorm2d) for module in self.backbone.modules())
        if has_batch_norm and 'norm_eval' not in backbone:
            raise UserError(
                f'model.backbone: the batch norms of {backbone["type"]} keep fixed statistics, as in a detector: set '
                'model.backbone.norm_eval=False to train them, or True to train from pretrained weights'
            )
        if isinstance(self.backbone, IsotropicBackbone):
            self.backbone.keep_patch_stride()
        self.head = self.backbone.build_head(num_classes)
        init_layers(self.head, nn.Linear)  # as the authors initialise the whole model
        self.loss = MODELS.build(loss or dict(type='SoftTargetCrossEntropy'))
        self.register_load_state_dict_pre_hook(_take_published_names)

    def forward(
        self,
        inputs: Tensor,
        labels: Tensor | None = None,
        img_path: Sequence[str] | None = None,
        mode: str = 'tensor',
    ) -> Tensor | dict[str, Tensor] | list[BaseDataElement]:
        """Classify images.

        Args:
            inputs: Normalised images ``(B, 3, H, W)``.
            labels: Indices of classes ``(B,)``, or soft labels ``(B, num_classes)``.
            img_path: Names of the images.
            mode: What is returned: ``'tensor'``, ``'loss'`` or ``'predict'``.

        Returns:
            The logits ``(B, num_classes)``; a dict with the loss; or, for each image, an element with ``pred_scores``
            ``(num_classes,)``, which sum to 1, and with ``gt_label`` and ``img_path`` if they were given.
        """
        (cells,) = self.backbone(inputs)
        logits = self.head(cells.permute(0, 2, 3, 1))
        if mode == 'tensor':
            return logits
        if mode == 'loss':
            return dict(loss=self.loss(logits, labels))
        samples = [BaseDataElement(pred_scores=scores) for scores in logits.float().softmax(-1)]
        for i, sample in enumerate(samples):
            if labels is not None:
                sample.gt_label = int(labels[i])
            if img_path is not None:
                sample.set_metainfo(dict(img_path=img_path[i]))
        return samples


def _take_published_names(model: ImageClassifier, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Rename published weights, which have no ``backbone.`` before their names, to those of the model."""
    if prefix or not state or any(key.startswith('backbone.') for key in state):
        return
    published = model.backbone.convert_state_dict(dict(state))
    state.clear()
    state.update({key if key.startswith('head.') else f'backbone.{key}': value for key, value in published.items()})
