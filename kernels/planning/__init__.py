"""Where tables lie, how much room batches get, and the plan that says so. Touches no device."""

from kernels.planning.auto_stacking import auto_stack_tables
from kernels.planning.build import apply_plan, build_plan
from kernels.planning.limits import Limits, ObservedLimits, raise_limits, theoretical_limits
from kernels.planning.memory import MemoryEstimate, estimate_memory
from kernels.planning.plan import (
    EmbeddingPlan,
    FeaturePlan,
    StackPlan,
    TablePlacement,
    TablePlan,
)
from kernels.planning.preparation import prepare_feature_specs_for_training
from kernels.planning.stacking import (
    compute_table_to_setting_in_stack,
    get_default_limits,
    get_stacked_table_specs,
    get_table_specs,
    get_table_stacks,
    round_up_dim_and_vocab_size,
    sample_count,
    stack_tables,
)
from kernels.planning.topology import Topology

__all__ = [
    "EmbeddingPlan",
    "FeaturePlan",
    "Limits",
    "MemoryEstimate",
    "ObservedLimits",
    "StackPlan",
    "TablePlacement",
    "TablePlan",
    "Topology",
    "apply_plan",
    "auto_stack_tables",
    "build_plan",
    "compute_table_to_setting_in_stack",
    "estimate_memory",
    "get_default_limits",
    "get_stacked_table_specs",
    "get_table_specs",
    "get_table_stacks",
    "prepare_feature_specs_for_training",
    "raise_limits",
    "round_up_dim_and_vocab_size",
    "sample_count",
    "stack_tables",
    "theoretical_limits",
]
