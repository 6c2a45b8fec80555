"""A run stops at a loss that is not finite although its gradients are, and names the images."""

from mmengine.registry import MODELS

from tests.mmengine_plugin.engine.points import Line, run


@MODELS.register_module()
class LineOfPositivePoints(Line):
    """A line whose loss is a mean over the points above a limit. Beyond all points, it is a mean over nothing."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, inputs, data_samples, mode):
        if mode != 'loss':
            return super().forward(inputs, data_samples, mode)
        losses = super().forward(inputs, data_samples, mode)['loss'].expand(4)
        return dict(loss=losses[inputs[0] > self.limit].mean())


def test_a_mean_over_nothing_stops_the_run_and_names_the_images(tmp_path):
    """mmseg's issue 1681: half of the images are labelled."""
    model = dict(type='LineOfPositivePoints', limit=1e6)
    code, output = run(tmp_path / 'none', 'iterations', model=model)
    assert code == 1 and 'the loss of iteration 1 is not finite although its gradients are' in output, output
    assert '.jpg' in output[output.rindex('its images are') :]
    code, output = run(tmp_path / 'all', 'iterations', model=dict(model, limit=-1e6))
    assert code == 0, output


def test_a_run_goes_on_while_such_losses_are_allowed_and_names_the_images(tmp_path):
    model = dict(type='LineOfPositivePoints', limit=1e6)
    code, output = run(tmp_path / 'all', 'iterations', model=model, optim_wrapper__max_bad_steps=9)
    assert code == 0 and output.count('is not finite although its gradients are (') == 9, output
    assert '(9 in a row, 9 are allowed); its images are ' in output
    code, output = run(tmp_path / 'most', 'iterations', model=model, optim_wrapper__max_bad_steps=7)
    assert code == 1 and 'the loss of iteration 8 is not finite although its gradients are, ' in output, output
