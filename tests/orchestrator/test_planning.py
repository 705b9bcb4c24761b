"""The planner with a real program: limits set by hand win, all others hold what was observed."""

import pytest

from kernels import Limits
from orchestrator.config import RunConfig
from orchestrator.errors import ConfigError
from orchestrator.planning import LaunchPlanner
from tests.workers.small_program import program
from workers.protocol import Observed

FIXED = {
    "max_ids_per_partition": 64,
    "max_unique_ids_per_partition": 64,
    "buffer_size_per_device": 256,
}


def planner(limits):
    config = RunConfig.model_validate({"limits": limits, "batch_size": 64})
    return LaunchPlanner(program(), config.run_spec("data", "folder"), config.fixed_limits)


def test_limits_set_by_hand_win_over_what_was_observed_and_over_the_plan_before():
    auto = planner("auto").plan({}, None, 0, 2)
    stacks = sorted(auto.limits)
    observed = dict.fromkeys(stacks, Observed(20, 20, 200))
    raised = planner("auto").plan(observed, auto, 1, 2)
    assert all(raised.limits[stack].max_ids_per_partition >= 20 for stack in stacks)

    by_hand = planner({stacks[0]: FIXED}).plan(observed, raised, 2, 2)
    assert (by_hand.version, by_hand.limits[stacks[0]]) == (2, Limits(64, 64, 256))
    for stack in stacks[1:]:
        assert by_hand.limits[stack] == raised.limits[stack]

    again = planner("auto").plan({}, None, 3, 2)
    assert (again.version, again.limits) == (3, auto.limits)


def test_limits_set_by_hand_may_have_buffers_for_many_minibatches():
    for minibatching, size in ((False, 8 * 4 * 1), (True, 1000)):
        config = RunConfig.model_validate(
            {
                "limits": {"item": dict.fromkeys(FIXED, 8) | {"buffer_size_per_device": 1000}},
                "batch_size": 64,
                "minibatching": minibatching,
            }
        )
        made = LaunchPlanner(program(), config.run_spec("data", "folder"), config.fixed_limits)
        plan = made.plan({}, None, 0, 2)
        assert plan.minibatching is minibatching
        assert plan.limits["item"] == Limits(8, 8, size)


def test_limits_for_a_stack_that_is_not_there_are_refused():
    with pytest.raises(ConfigError, match=r"limits\.other: there is no table stack 'other'"):
        planner({"other": FIXED}).plan({}, None, 0, 2)
