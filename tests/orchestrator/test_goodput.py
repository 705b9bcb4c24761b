import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.goodput import KINDS, Ledger, lease_shares

SECONDS = st.floats(0.0, 1e4)


@given(
    st.dictionaries(st.sampled_from([*KINDS, "idle"]), SECONDS),
    st.floats(0.0, 1e4),
    st.floats(0.0, 1.0),
)
def test_shares_of_a_lease_sum_to_one_and_none_is_negative(reported, elapsed, repeated):
    shares = lease_shares(reported, elapsed, repeated)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert all(share >= -1e-12 for share in shares.values())
    assert set(shares) <= set(KINDS)


def test_a_lease_is_divided_as_reported_and_the_rest_is_coordination():
    shares = lease_shares({"training": 6.0, "waiting_for_data": 1.0}, 10.0, 0.0)
    assert shares == pytest.approx({"training": 0.6, "waiting_for_data": 0.1, "coordinating": 0.3})


def test_compiling_is_no_repeated_work():
    shares = lease_shares({"training": 6.0, "compiling": 2.0}, 10.0, 0.5)
    assert shares == pytest.approx(
        {"training": 0.3, "compiling": 0.2, "coordinating": 0.1, "repeated_work": 0.4}
    )


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.floats(0.0, 100.0), st.booleans())))
def test_every_second_belongs_to_one_kind(changes):
    ledger, now = Ledger(5.0), 5.0
    for kind, seconds, split in changes:
        now += seconds
        if split:
            ledger.split({kind: 1.0}, now)
        else:
            ledger.enter(kind, now)
    seconds = ledger.seconds(now + 3.0)
    assert list(seconds) == list(KINDS)
    assert sum(seconds.values()) == pytest.approx(now + 3.0 - 5.0)


def test_time_can_turn_out_to_be_of_another_kind():
    ledger = Ledger(0.0)
    ledger.enter("training", 1.0)
    ledger.enter("recovering", 4.0, spent_as="recovering")
    seconds = ledger.seconds(6.0)
    assert (seconds["launching"], seconds["training"], seconds["recovering"]) == (1.0, 0.0, 5.0)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'napping' is no kind of time"):
        Ledger(0.0).enter("napping", 1.0)
