"""Scores of probabilities, and the temperature that is fitted to them."""

import numpy as np
import pytest

from cifar_flax.reporting.calibration import MAX_TEMPERATURE, fit_temperature, scores


def test_scores_match_values_computed_by_hand():
    logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]).astype(np.float32)
    result = scores(logits, np.array([0, 2]))
    assert result.negative_log_likelihood == pytest.approx((np.log(2) + np.log(10)) / 2)
    assert result.brier == pytest.approx(((0.25 + 0.0625 + 0.0625) + (0.01 + 0.64 + 0.81)) / 2)
    assert result.calibration_error == pytest.approx((0.5 + 0.8) / 2)  # confidence 0.5 and right, 0.8 and wrong


def test_scores_divide_the_logits_by_the_temperature_and_bear_large_ones():
    logits = np.array([[2000.0, 0.0], [0.0, 2000.0]], np.float32)
    result = scores(logits, np.array([0, 0]), temperature=1000.0)
    assert result.negative_log_likelihood == pytest.approx(np.log1p(np.exp(-2)) + 1)
    assert scores(logits, np.array([0, 0])).negative_log_likelihood == pytest.approx(1000)


@pytest.mark.parametrize("scale", [0.25, 3.0])
def test_the_temperature_of_scaled_calibrated_logits_is_their_scale(scale):
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(20_000, 10))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(-1)  # drawn from softmax(logits)
    temperature = fit_temperature((scale * logits).astype(np.float32), labels)
    assert temperature == pytest.approx(scale, rel=0.03)
    least = scores(scale * logits, labels, temperature)
    assert least.calibration_error < 0.01 < scores(scale * logits, labels).calibration_error
    for other in (0.98 * temperature, 1.02 * temperature):
        assert least.negative_log_likelihood < scores(scale * logits, labels, other).negative_log_likelihood


def test_the_temperature_stays_finite_where_the_likelihood_has_no_maximum():
    right = np.arange(4) % 3
    assert fit_temperature(5 * np.eye(3)[right], right) == pytest.approx(1 / MAX_TEMPERATURE)
    assert fit_temperature(5 * np.eye(3)[right], (right + 1) % 3) == pytest.approx(MAX_TEMPERATURE)


def test_one_class_and_equal_logits_have_temperature_1():
    labels = np.zeros(3, np.int32)
    assert fit_temperature(np.ones((3, 1)), labels) == 1
    assert fit_temperature(np.ones((3, 10)), labels) == 1
    assert scores(np.ones((3, 1)), labels) == (0, 0, 0)
