"""No run goes without our hooks, whatever list a config has."""

import pytest

from mmengine_plugin.checks.classes import NumClassesHook
from mmengine_plugin.cli.configs import OUR_HOOKS, with_our_hooks


@pytest.mark.parametrize('hooks', [[], [dict(type='EMAHook')], [dict(type='StrictLoadHook', strict=False)]])
def test_a_list_of_a_config_gets_the_hooks_that_it_lacks(hooks):
    added = with_our_hooks(hooks)
    assert added[: len(hooks)] == hooks
    assert sorted(hook['type'] for hook in added) == sorted({*OUR_HOOKS, *(hook['type'] for hook in hooks)})


@pytest.mark.parametrize('name', ['mmengine.NumClassesHook', NumClassesHook])
def test_a_hook_that_is_there_is_not_added_again(name):
    added = with_our_hooks([dict(type=name, check_names=False)])
    assert len(added) == len(OUR_HOOKS) and dict(type='NumClassesHook') not in added
