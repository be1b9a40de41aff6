"""Which layers start from given arrays, and how the arrays are recognized again."""

import numpy as np
import pytest

from cifar_flax.errors import BadInput
from cifar_flax.weights.transfer import as_trees, by_name, checksum, chosen, plan

NAME = "config.init_from: w.npz"


def network(num_classes=3, side=4):
    """Arrays of a small network by their names."""
    shapes = {
        "params/conv1/kernel": (3, 3, 3, 2),
        "params/conv1/bias": (2,),
        "params/fc1/kernel": (side * side * 2, 5),
        "params/fc1/bias": (5,),
        "params/norm1/scale": (5,),
        "params/output/kernel": (5, num_classes),
        "batch_stats/norm1/mean": (5,),
    }
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def test_head_begins_anew_unless_the_classes_are_the_same():
    body = {"conv1": 56, "fc1": 165, "norm1": 10}
    assert plan(network(), network(), False, NAME) == (body, {"output": 15})
    assert plan(network(), network(5), False, NAME) == (body, {"output": 25})
    assert plan(network(), network(), True, NAME) == (body | {"output": 15}, {})


def test_layer_of_another_shape_begins_anew_with_its_bias():
    assert plan(network(side=6), network(), True, NAME) == ({"conv1": 56, "norm1": 10, "output": 15}, {"fc1": 165})


def test_head_may_be_missing():
    body = {name: array for name, array in network().items() if "output" not in name}
    assert plan(body, network(), True, NAME).new == {"output": 15}


@pytest.mark.parametrize(("removed", "added"), [("batch_stats/norm1/mean", None), (None, "params/conv2/bias")])
def test_other_names_are_of_another_network(removed, added):
    source = {name: array for name, array in network().items() if name != removed} | (
        {added: np.zeros(1)} if added else {}
    )
    verb = "lacks" if removed else "also has"
    with pytest.raises(BadInput) as error:
        plan(source, network(), True, NAME)
    name = removed or added
    assert str(error.value) == f"{NAME} is of another network: it {verb} {name}; name weights of this network"


def test_weights_of_which_no_layer_fits_are_refused():
    wider = {name: np.zeros([2 * side for side in array.shape]) for name, array in network().items()}
    with pytest.raises(BadInput, match=r"no layer that fits this network \(batch_stats/norm1/mean is \[10\]\)"):
        plan(wider, network(), True, NAME)


def test_checksum_depends_on_names_shapes_and_values_but_not_on_order():
    arrays = network()
    assert checksum(arrays) == checksum(dict(reversed(arrays.items())))
    others = [
        chosen(arrays, ["conv1", "norm1"]),
        arrays | {"params/conv1/bias": np.array([0, 1e-9], np.float32)},
        arrays | {"params/conv1/bias": np.zeros((1, 2), np.float32)},
        arrays | {"params/conv1/bias": np.zeros(2, np.float64)},
        {name.replace("fc1", "fc2"): array for name, array in arrays.items()},
    ]
    assert len({checksum(other) for other in [arrays, *others]}) == 6


def test_trees_and_names_are_inverse():
    assert by_name(*as_trees(network())).keys() == network().keys()
    params = {"conv1": {"kernel": 1}}
    assert as_trees(by_name(params, {})) == (params, {})
