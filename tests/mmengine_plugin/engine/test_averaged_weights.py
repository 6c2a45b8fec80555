"""Averaged weights follow those of all steps; validations, checkpoints and tests have the averages."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from tests.docs.test_pages import blocks
from tests.mmengine_plugin.engine.points import Line, config


class Watch(Hook):
    """Keeps the weights after each step, and those that are validated."""

    priority = 'VERY_LOW'  # after the average has been updated

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []
        self.validated: list[torch.Tensor] = []

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Keep the weights of the head after a step."""
        self.steps.append(runner.model.head.weight.detach().clone())

    def after_val_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Keep the weights that a validation computes with."""
        self.validated.append(runner.model.head.weight.detach().clone())


def test_the_average_of_the_pages_config_is_validated_saved_and_tested(tmp_path):
    (text,) = (text for text in blocks('training.md', 'python') if 'EMAHook' in text)
    (hook,) = (hook for hook in Config.fromstring(text, '.py').custom_hooks if hook.type == 'EMAHook')
    settings = config(tmp_path, 'epochs')
    settings['custom_hooks'].append(copy.deepcopy(hook))
    runner, watch = Runner.from_cfg(settings), Watch()
    runner.register_hook(watch)
    runner.train()
    average = watch.steps[0]
    for weight in watch.steps[1:]:
        average = (1 - hook.momentum) * average + hook.momentum * weight
    assert len(watch.steps) == 9
    assert not torch.allclose(average, watch.steps[-1])
    torch.testing.assert_close(watch.validated[-1], average)
    file = torch.load(tmp_path / 'iter_9.pth', weights_only=False)
    torch.testing.assert_close(file['state_dict']['head.weight'], average)
    assert torch.equal(file['ema_state_dict']['module.head.weight'], watch.steps[-1])

    model = Line().eval()
    model.load_state_dict(file['state_dict'])
    tests = {f'test{key[3:]}': settings[key] for key in ('val_dataloader', 'val_evaluator', 'val_cfg')}
    scores = []
    for hooks in ([], [dict(type='StrictLoadHook'), copy.deepcopy(hook)]):
        tested = dict(
            {key: settings[key] for key in ('model', 'default_scope')}, custom_hooks=hooks, work_dir=str(tmp_path)
        )
        tested |= copy.deepcopy(tests) | dict(
            load_from=str(tmp_path / 'iter_9.pth'), experiment_name=f'test{len(hooks)}'
        )
        scores.append(Runner.from_cfg(tested).test()['mean'])
    points = torch.arange(6.0)[:, None].expand(6, 4)
    with torch.no_grad():
        assert scores == [pytest.approx(model.head(model.body(points)).sum().item(), rel=1e-5)] * 2
