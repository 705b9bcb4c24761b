"""Decisions of the controller as pure functions: from what is known to what should be done."""

from __future__ import annotations

from orchestrator.policies.checkpointing import checkpoint_to_restore, save_due
from orchestrator.policies.failures import Fatal, Lost, OverLimits, Verdict, judge, restart_pause
from orchestrator.policies.leasing import evaluation_due, next_lease, saving_lease
from orchestrator.policies.limits import observe_overflow

__all__ = [
    "Fatal",
    "Lost",
    "OverLimits",
    "Verdict",
    "checkpoint_to_restore",
    "evaluation_due",
    "judge",
    "next_lease",
    "observe_overflow",
    "restart_pause",
    "save_due",
    "saving_lease",
]
