"""A run that ends when its evaluations get no better."""

from orchestrator import events, states
from tests.orchestrator.simulation import STEPS_PER_EPOCH, check_finished, simulate

PATIENT = {"epochs": 9, "evaluation": {"early_stopping": {"patience": 2}}}


def test_it_ends_saved_and_finished() -> None:
    run = simulate(**PATIENT)
    run.to_end()
    # All evaluations are alike: the first is the best, and two more end the run.
    check_finished(run, 3 * STEPS_PER_EPOCH)
    assert [event.step for event in run.of(events.Evaluated)] == [50, 100, 150]
    assert run.controller.progress.complete


def test_a_figure_that_evaluations_lack_ends_it_with_an_error() -> None:
    run = simulate(epochs=9, evaluation={"early_stopping": {"patience": 2, "metric": "recall@9"}})
    state = run.to_end()
    assert isinstance(state, states.Failed)
    assert "has no such figure; it has accuracy, auc" in str(state.error)
