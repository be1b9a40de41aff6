"""Loss and accuracy, against values computed by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from cifar_flax.training.metrics import Metrics, cross_entropy


def test_padding_of_the_last_batch_is_not_counted():
    # five images in batches of four: the second batch has one image and three rows of padding
    losses = jnp.array([[1.0, 2.0, 3.0, 4.0], [5.0, 100.0, 100.0, jnp.nan]])
    logits = jnp.array(
        [[[2.0, 1.0], [1.0, 2.0], [0.0, 1.0], [3.0, 0.0]], [[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]]
    )
    labels = jnp.array([[0, 1, 0, 0], [1, 0, 0, 0]])
    mask = jnp.array([[True] * 4, [True, False, False, False]])
    total = Metrics.zero()
    for batch in zip(losses, logits, labels, mask, strict=True):
        total = total + Metrics.from_batch(*batch)
    assert int(total.num_images) == 5
    assert int(total.num_correct) == 4  # all except the third
    assert total.means() == (3.0, 0.8)


def test_cross_entropy_matches_values_computed_by_hand():
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]))
    np.testing.assert_allclose(cross_entropy(logits, jnp.array([0, 2])), -np.log([0.7, 0.5]), rtol=1e-6)


def test_label_smoothing_matches_a_value_computed_by_hand():
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1]]))
    # with e = 0.3 and three classes the target is (0.8, 0.1, 0.1)
    expected = -(0.8 * np.log(0.7) + 0.1 * np.log(0.2) + 0.1 * np.log(0.1))
    assert float(cross_entropy(logits, jnp.array([0]), 0.3)[0]) == pytest.approx(expected, rel=1e-6)
