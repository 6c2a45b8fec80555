"""The public place of the predictor: ``from mmengine_plugin.predict import Predictor``."""

from .inference.predictor import Predictor

__all__ = ['Predictor']
