"""``compile``: what would help where a SparseCore has no room for the different ids of a batch."""

import pytest
from test_compile import CLICKS, GIB, case_of, command, estimated, needs_compiler

from orchestrator.compile_cases import CompileCase
from orchestrator.compile_changes import try_changes
from orchestrator.compile_report import report_lines
from orchestrator.compile_room import SparsecoreRoom
from orchestrator.topology import slice_topology
from workers.compile_process import CompileOutcome

NO_ROOM = (
    "INVALID_ARGUMENT: E3001: CompileTimeSparseCoreInvalidReplicaCount: No viable logical replica "
    "count for the embedding table with metadata: max_nz_per_row = 32768, max_unique_nz_per_row = "
    "32768, feature_width = 16, sample_count = 32768 (last tried split factor for vector splitting "
    "= 2, fixed_size_allocation_bytes = 1180672, row_dependent_size_allocation_bytes = 393216, "
    "total_spmem_size_bytes = 262112)"
)


def test_fewer_different_ids_are_tried_where_a_sparsecore_has_no_room_for_them():
    room = SparsecoreRoom.told_in(NO_ROOM)
    assert room is not None
    assert SparsecoreRoom.told_in("no room") is None
    case = case_of("v6e-1", users=100_000, batch_size=65_536)
    full, asked = CompileOutcome(refusal=NO_ROOM), []

    def compile_case(one):
        asked.append(one)
        return full if room.crowded(estimated(one)) else CompileOutcome(needed=GIB)

    told = try_changes(case, full, compile_case)
    limits, larger, bare, smaller = told
    assert limits.words.startswith("limits.user.max_unique_ids_per_partition=6544 ")
    stack = {stack.name: stack for stack in limits.computed.stacks}["user"]
    assert (stack.max_unique_ids_per_partition, stack.max_ids_per_partition) == (6544, 32768)
    # Of slices the least with few enough rows, or ids, of a partition.
    assert larger.words == "v6e-8 (1 host)"
    # A table keeps as many different ids without slots.
    assert bare.outcome is None
    assert not bare.should_help
    assert max(stack.max_unique_ids_per_partition for stack in smaller.computed.stacks) / 6544 > 0.5
    assert [limits.helps, larger.helps, smaller.helps] == [True] * 3
    assert asked == [limits.case, larger.case, smaller.case]
    text = "\n".join(report_lines(case, estimated(case), full, told, []))
    assert "does not help: no room for so many different ids in a partition (computed)" in text


def test_wider_rows_leave_room_for_fewer_ids():
    room = SparsecoreRoom(width=16, bytes_per_id=36.0, total=262_112)
    counts = []
    for width in (8, 16, 20, 128):
        parameters = {"users": 1000, "embedding_dim": width}
        case = CompileCase(CLICKS, parameters, 1024, slice_topology("v6e-4"), {})
        counts.append(room.ids(estimated(case).stacks[0]))
    assert counts == [6552, 6552, 4368, 816]


@needs_compiler
@pytest.mark.system
def test_the_compiler_tells_for_how_many_ids_there_is_room():
    words = (f"program={CLICKS}", "parameters.users=100000", "--topology", "v6e-1", "--no-changes")
    found = command(*words, "batch_size=32768")
    room = SparsecoreRoom.told_in(found["refusal"])
    assert room is not None, found
    assert (room.width, room.total) == (16, 262_112)
    assert room.bytes_per_id == pytest.approx(36, rel=0.01)
