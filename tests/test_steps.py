"""The compiled functions: exact counts, one compilation, the same bits wherever an epoch is cut, on any devices."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import Tiny, tiny_split

from cifar_flax.models import CNN
from cifar_flax.training.augment import keep, shift_and_flip
from cifar_flax.training.metrics import Metrics, cross_entropy
from cifar_flax.training.state import create_train_state, split_roots
from cifar_flax.training.steps import data_mesh, make_evaluate, make_train_steps, replicated

SHAPE = (8, 8, 3)
BATCH = 16


@functools.cache
def program(devices=1):
    """(optimizer, train_steps, mesh), compiled once for all tests."""
    mesh = data_mesh(jax.devices()[:devices])
    optimizer = optax.adam(1e-2)
    return (
        optimizer,
        make_train_steps(
            Tiny(3), optimizer, shift_and_flip, batch_size=BATCH, steps_per_epoch=4, label_smoothing=0.0, mesh=mesh
        ),
        mesh,
    )


def setup(devices=1, seed=0):
    """(train_steps, state, images, labels) on so many devices."""
    optimizer, train_steps, mesh = program(devices)
    split = tiny_split(70, 0)
    state = create_train_state(Tiny(3), optimizer, jax.random.key(seed), split.images)
    return train_steps, *jax.device_put((state, split.images, split.labels), replicated(mesh))


def zero(images):
    return jax.device_put(Metrics.zero(), images.sharding)


def run(stops, **fields):
    """The state and the sums after training up to each of the stops in turn."""
    train_steps, state, images, labels = setup(**fields)
    metrics = zero(images)
    for stop in stops:
        state, metrics, diverged = train_steps(state, metrics, images, labels, np.int32(stop))
        assert not diverged
    return state, metrics


def assert_equal_bits(a, b):
    def compare(x, y):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)

    jax.tree.map(compare, a, b)


def test_an_epoch_has_the_same_bits_wherever_it_is_cut():
    whole = run([4])
    assert int(whole[0].step) == 4
    assert int(whole[1].num_images) == 64  # four batches of 16; six images are left out
    assert_equal_bits(whole, run([1, 2, 3, 4]))
    assert_equal_bits(whole, run([3, 4]))


def test_one_compilation_serves_every_length():
    train_steps, state, images, labels = setup()
    metrics = zero(images)
    for stop in (1, 4):
        state, metrics, _ = train_steps(state, metrics, images, labels, np.int32(stop))
    assert train_steps._cache_size() == 1


def test_the_seed_decides_everything():
    assert_equal_bits(run([4], seed=3), run([4], seed=3))
    assert float(run([4], seed=3)[1].loss_sum) != float(run([4], seed=4)[1].loss_sum)


def test_an_epoch_trains_on_other_images_in_another_order_each_time():
    seen = []

    def spy(key, images, indices, epoch):
        jax.debug.callback(lambda i: seen.append(np.asarray(i)), indices, ordered=True)
        return images

    mesh = data_mesh(jax.devices()[:1])
    optimizer = optax.sgd(0.0)
    train_steps = make_train_steps(
        Tiny(3), optimizer, spy, batch_size=BATCH, steps_per_epoch=4, label_smoothing=0.0, mesh=mesh
    )
    _, state, images, labels = setup()
    state = create_train_state(Tiny(3), optimizer, jax.random.key(0), np.zeros((1, *SHAPE), np.uint8))
    for stop in (4, 8):
        state, _, _ = train_steps(state, zero(images), images, labels, np.int32(stop))
        jax.effects_barrier()
    first, second = np.concatenate(seen[:4]), np.concatenate(seen[4:])
    assert len(set(first)) == len(set(second)) == 64
    assert set(first) != set(second)


def test_a_step_is_what_it_would_be_by_hand():
    """SGD with label smoothing on a set of one image: the parameters move by -lr times the gradient."""
    model, optimizer = CNN(3), optax.sgd(0.1)
    split = tiny_split(1, 0)
    images, labels = jnp.asarray(split.images), jnp.asarray(split.labels)
    state = create_train_state(model, optimizer, jax.random.key(0), np.zeros((1, *SHAPE), np.uint8))
    dropout = jax.random.fold_in(split_roots(state.rng).dropout, 0)

    def loss_fn(params):
        logits = model.apply({"params": params}, images / 255, train=True, rngs={"dropout": dropout})
        return cross_entropy(logits, labels, 0.2).mean()

    loss, gradient = jax.value_and_grad(loss_fn)(state.params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, gradient)
    mesh = data_mesh(jax.devices()[:1])
    train_steps = make_train_steps(
        model, optimizer, keep, batch_size=1, steps_per_epoch=1, label_smoothing=0.2, mesh=mesh
    )
    trained, metrics, _ = train_steps(state, zero(images), images, labels, np.int32(1))
    assert float(metrics.loss_sum) == pytest.approx(float(loss), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), trained.params, expected)


def test_a_loss_that_is_not_finite_stops_before_its_step():
    train_steps, state, images, labels = setup()
    broken = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan) if leaf.ndim == 1 else leaf, state.params)
    state = state.replace(params=broken)
    before = jax.tree.map(lambda leaf: leaf.copy(), state)
    after, metrics, diverged = train_steps(state, zero(images), images, labels, np.int32(4))
    assert diverged
    assert int(after.step) == 0
    assert int(metrics.num_images) == 0
    assert_equal_bits(before, after)


def test_the_update_copies_no_parameters():
    """A copy of every kernel in every step would cost a third of the time; XLA makes one if the old state is kept.

    Nor are parameters and moments written in more than one pass.
    """
    train_steps, state, images, labels = setup()
    compiled = train_steps.lower(state, zero(images), images, labels, np.int32(0)).compile().as_text()
    for kernel in (leaf for leaf in jax.tree.leaves(state.params) if leaf.ndim > 1):
        array = rf"f32\[{','.join(map(str, kernel.shape))}\]\S*"
        copied = re.findall(rf"= {array} copy\(", compiled)
        assert not copied, copied
        assert re.search(rf"= \({array} (/\S+ )?{array} (/\S+ )?{array}\) fusion\(", compiled)


@pytest.mark.parametrize("devices", [2, 4])
def test_several_devices_give_the_losses_of_one(devices):
    (one, one_metrics), (many, many_metrics) = run([4]), run([4], devices=devices)
    np.testing.assert_allclose(many_metrics.loss_sum, one_metrics.loss_sum, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), many.batch_stats, one.batch_stats)
    train_steps, state, images, labels = setup(devices)
    compiled = train_steps.lower(state, zero(images), images, labels, np.int32(4)).compile()
    assert "all-reduce" in compiled.as_text()  # the batch is split: gradients are added up across devices


def evaluate(count, batch_size=8, rows=40, devices=1, **changes):
    mesh = data_mesh(jax.devices()[:devices])
    model = Tiny(3)
    variables = model.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), train=False)
    split = tiny_split(rows, 5)
    images, labels = split.images.copy(), split.labels.copy()
    images[count:] = changes.get("padding", 0)
    expected = model.apply(variables, jnp.asarray(images[:count] / np.float32(255)), train=False)
    arguments = (variables["params"], variables["batch_stats"], images, labels)
    arguments = jax.device_put(arguments, replicated(mesh))
    program = make_evaluate(model, num_classes=3, batch_size=batch_size, mesh=mesh)
    metrics, every = program(*arguments, np.int32(count))
    np.testing.assert_allclose(every[:count], expected, rtol=1e-5, atol=1e-6)
    return metrics, expected, labels[:count]


@pytest.mark.parametrize(("count", "batch_size"), [(21, 8), (24, 8), (5, 8), (40, 40), (1, 4)])
def test_evaluation_counts_every_image_once(count, batch_size):
    metrics, logits, labels = evaluate(count, batch_size)
    assert int(metrics.num_images) == count
    assert int(metrics.num_correct) == int((np.argmax(logits, -1) == labels).sum())
    np.testing.assert_allclose(metrics.loss_sum, cross_entropy(logits, jnp.asarray(labels)).sum(), rtol=1e-5)


def test_what_pads_a_split_does_not_show():
    assert_equal_bits(evaluate(21)[0], evaluate(21, padding=255)[0])


def test_evaluation_on_four_devices():
    one, four = evaluate(21)[0], evaluate(21, devices=4)[0]
    assert (int(one.num_images), int(one.num_correct)) == (int(four.num_images), int(four.num_correct))
    np.testing.assert_allclose(four.loss_sum, one.loss_sum, rtol=1e-6)
