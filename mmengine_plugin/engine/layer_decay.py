"""Learning rates that fall from the heads to the stem, layer by layer (layer-wise decay)."""

from __future__ import annotations

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from backbones.errors import UserError


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor of optimizers, with a learning rate for each layer of the backbone.

    A parameter at depth d of n layers has the learning rate that it would have without decay, times
    ``decay_rate ** (n - 1 - d)``. The backbone says which parameter is at which depth
    (:meth:`backbones.base.Backbone.get_layer_depth`): the stem is at depth 0, heads and output norms at the last one,
    with factor 1. For MambaOut these are the layers of ConvNeXt (BEiT, arXiv 2106.08254, has the idea; ConvNeXt, arXiv
    2201.03545, uses it for detection): 7 of the tiny size below the heads, 13 of small and base.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper, with ``optimizer``.
        paramwise_cfg: ``decay_rate`` above 0 and up to 1, and any rules of mmengine's constructor, such as
            ``norm_decay_mult``, ``bias_decay_mult`` and ``custom_keys``.

    Raises:
        UserError: If ``decay_rate`` is missing or out of range, if there are settings of another kind of decay, or if
            the model has no backbone that says which parameter is at which depth.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        rules = dict(paramwise_cfg or {})
        self.decay_rate = rules.get('decay_rate')
        if not isinstance(self.decay_rate, int | float) or not 0 < self.decay_rate <= 1:
            raise UserError(
                f'optim_wrapper.paramwise_cfg.decay_rate is {self.decay_rate!r}: set a number above 0 and up to 1, '
                'such as 0.7'
            )
        if rules.pop('decay_type', 'layer_wise') != 'layer_wise':
            raise UserError(
                f'optim_wrapper.paramwise_cfg.decay_type={paramwise_cfg["decay_type"]!r}: '
                'LayerDecayOptimWrapperConstructor knows layer_wise only; leave decay_type out'
            )
        self.num_layers = rules.pop('num_layers', None)
        super().__init__(optim_wrapper_cfg, rules)

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', **kwargs) -> None:
        """Add the parameters that are trained, each with its rules; scale the learning rates of the whole model.

        Args:
            params: Groups of parameters, to which one is added for each parameter.
            module: The model or a part of it.
            prefix: Name of the part; empty for the model.
            **kwargs: Arguments of mmengine's method.
        """
        super().add_params(params, module, prefix=prefix, **kwargs)
        if prefix:
            return  # mmengine calls this method for each part
        factors = self._factors(module)
        for group in params:
            (parameter,) = group['params']
            group['lr'] = group.get('lr', self.base_lr) * factors.get(parameter, 1.0)

    def _factors(self, model: nn.Module) -> dict[nn.Parameter, float]:
        """The factor of each parameter of the backbones in a model."""
        factors = {}
        for prefix, backbone in model.named_modules():
            if not hasattr(backbone, 'get_layer_depth'):
                continue
            for name, parameter in backbone.named_parameters():
                depth, count = backbone.get_layer_depth(f'{prefix}.{name}', f'{prefix}.')
                factors[parameter] = self.decay_rate ** (count - 1 - depth)
            if self.num_layers not in (None, count - 2):  # mmdet counts neither the stem nor the heads
                raise UserError(
                    f'optim_wrapper.paramwise_cfg.num_layers is {self.num_layers}, but {type(backbone).__name__} has '
                    f'{count - 2} layers besides the stem: leave num_layers out, since it is derived'
                )
        if not factors:
            raise UserError(
                'LayerDecayOptimWrapperConstructor: no part of the model has get_layer_depth, as the backbones of this '
                'project and of mmpretrain have; leave optim_wrapper.constructor out'
            )
        return factors
