"""Decisions of the controller as pure functions: from what is known to what should be done."""

from __future__ import annotations

from orchestrator.policies.checkpointing import (
    checkpoint_to_restore,
    checkpoints_to_delete,
    save_due,
)
from orchestrator.policies.evaluating import best_steps, evaluation_due, stop_early
from orchestrator.policies.failures import Fatal, Lost, OverLimits, Verdict, judge, restart_pause
from orchestrator.policies.leasing import next_lease, saving_lease
from orchestrator.policies.limits import observe_overflow, outgrown
from orchestrator.policies.scaling import larger_size, smaller_size

__all__ = [
    "Fatal",
    "Lost",
    "OverLimits",
    "Verdict",
    "best_steps",
    "checkpoint_to_restore",
    "checkpoints_to_delete",
    "evaluation_due",
    "judge",
    "larger_size",
    "next_lease",
    "observe_overflow",
    "outgrown",
    "restart_pause",
    "save_due",
    "saving_lease",
    "smaller_size",
    "stop_early",
]
