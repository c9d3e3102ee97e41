"""The stop rule looks at the whole validation curve, not at single values."""

from __future__ import annotations

from napari_dip.engine.fit.stopping import (
    ValidationRecord,
    find_smoothed_best,
    make_validation_stop_rule,
)


def make_records(*losses: float) -> list[ValidationRecord]:
    return [
        ValidationRecord(iteration=25 * (number + 1), training_loss=0.0, validation_loss=loss)
        for number, loss in enumerate(losses)
    ]


def test_stop_ignores_a_single_lucky_report() -> None:
    rule = make_validation_stop_rule(100)
    falling = [1.0, 0.2, 0.8, 0.7, 0.6, 0.55, 0.5]
    assert rule(make_records(*falling)) is None


def test_stop_ignores_a_single_unlucky_report() -> None:
    rule = make_validation_stop_rule(50)
    assert rule(make_records(1.0, 0.9, 0.8, 5.0, 0.7, 0.6)) is None


def test_stop_when_the_validation_loss_only_rises() -> None:
    reason = make_validation_stop_rule(100)(make_records(1.0, 0.5, 0.4, 0.45, 0.6, 0.7, 0.8, 0.9))
    assert reason is not None
    assert "for 125 iterations" in str(reason)


def test_a_best_report_that_stood_alone_is_not_said_to_begin_the_wait() -> None:
    lucky = [0.30, 0.5, 0.45, 0.4, 0.41, 0.42, 0.43, 0.44]  # the wait is counted from the fourth
    reason = make_validation_stop_rule(75)(make_records(*lucky))
    assert reason is not None
    assert "the smoothed validation loss did not improve for 100 iterations" in str(reason)


def test_no_stop_before_the_patience_is_over() -> None:
    rule = make_validation_stop_rule(100)
    assert rule(make_records(0.4, 0.5, 0.6)) is None
    assert rule([]) is None


def test_a_report_that_is_not_a_number_is_no_best() -> None:
    assert find_smoothed_best(make_records(float("nan"), 0.5, 0.4, float("nan"))) in (1, 2)


def test_no_stop_without_validation_loss() -> None:
    nan = float("nan")
    assert make_validation_stop_rule(50)(make_records(nan, nan, nan, nan, nan)) is None
