"""The compiled training steps and evaluation: exact counts, one compilation, results independent of interruptions."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import Tiny, tiny_split

from cifar_flax.models import CNN
from cifar_flax.training.augment import identity, shift_and_flip
from cifar_flax.training.evaluation import make_evaluate
from cifar_flax.training.job import Job, init_state
from cifar_flax.training.metrics import Metrics, cross_entropy
from cifar_flax.training.sharding import data_mesh, replicated
from cifar_flax.training.state import split_rng
from cifar_flax.training.steps import epoch_order, make_train_steps

SHAPE = (8, 8, 3)
BATCH = 16


@functools.cache
def make_job(devices=1, **fields):
    """A job with four steps per epoch on `devices` devices."""
    job = Job(
        model=Tiny(3),
        optimizer=optax.adam(1e-2),
        schedule=optax.constant_schedule(1e-2),
        augmentation=shift_and_flip,
        averaging=None,
        label_smoothing=0.0,
        mesh=data_mesh(jax.devices()[:devices]),
        batch_size=BATCH,
        steps_per_epoch=4,
        num_steps=100,
    )
    return job._replace(**fields)


@functools.cache
def cached_train_steps(devices):
    return make_train_steps(make_job(devices))


def setup(devices=1, seed=0):
    """(train_steps, state, data) on `devices` devices; data are the order of the first epoch, images and labels."""
    job, split = make_job(devices), tiny_split(70, 0)
    state = init_state(job, jax.random.key(seed), split.images)
    data = epoch_order(state.rng, 0, len(split)), split.images, split.labels
    return cached_train_steps(devices), *jax.device_put((state, data), replicated(job.mesh))


def zero_metrics(data):
    return jax.device_put(Metrics.zero(), data[0].sharding)


def run(stops, **fields):
    """The state and metrics after training up to each of the stops in turn."""
    train_steps, state, data = setup(**fields)
    metrics = zero_metrics(data)
    for stop in stops:
        state, metrics, diverged = train_steps(state, metrics, *data, np.int32(stop))
        assert not diverged
    return state, metrics


def assert_equal_bits(a, b):
    def compare(x, y):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)

    jax.tree.map(compare, a, b)


def test_splitting_an_epoch_gives_identical_results():
    state, metrics = run([4])
    assert int(state.step) == 4
    assert int(metrics.num_images) == 64  # four batches of 16; the epoch drops six images
    assert_equal_bits((state, metrics), run([1, 2, 3, 4]))
    assert_equal_bits((state, metrics), run([3, 4]))


def test_one_compilation_serves_all_chunk_lengths():
    train_steps, state, data = setup()
    metrics = zero_metrics(data)
    for stop in (1, 4):
        state, metrics, _ = train_steps(state, metrics, *data, np.int32(stop))
    assert train_steps._cache_size() == 1


@pytest.mark.medium
def test_training_depends_on_the_seed_only():
    assert_equal_bits(run([4], seed=3), run([4], seed=3))
    assert float(run([4], seed=3)[1].loss_sum) != float(run([4], seed=4)[1].loss_sum)


@pytest.mark.medium
def test_each_epoch_has_its_own_order_and_drops_different_images():
    seen = []

    def spy(key, images, indices, epoch):
        jax.debug.callback(lambda i: seen.append(np.asarray(i)), indices, ordered=True)
        return images

    job = make_job(optimizer=optax.sgd(0.0), augmentation=spy)
    train_steps = make_train_steps(job)
    *_, (_, *images) = setup()
    state = init_state(job, jax.random.key(0), np.zeros((1, *SHAPE), np.uint8))
    for epoch in (0, 1):
        data = epoch_order(state.rng, epoch, 70), *images
        state, _, _ = train_steps(state, zero_metrics(data), *data, np.int32(4 * epoch + 4))
        jax.effects_barrier()
    first, second = np.concatenate(seen[:4]), np.concatenate(seen[4:])
    assert len(set(first)) == len(set(second)) == 64
    assert set(first) != set(second)


@pytest.mark.medium
def test_training_step_matches_one_computed_by_hand():
    """SGD with label smoothing on one image: the parameters change by -lr times the gradient."""
    model = CNN(3)
    job = make_job(
        model=model,
        optimizer=optax.sgd(0.1),
        augmentation=identity,
        label_smoothing=0.2,
        batch_size=1,
        steps_per_epoch=1,
    )
    split = tiny_split(1, 0)
    images, labels = jnp.asarray(split.images), jnp.asarray(split.labels)
    data = jnp.array([0]), images, labels
    state = init_state(job, jax.random.key(0), np.zeros((1, *SHAPE), np.uint8))
    dropout = jax.random.fold_in(split_rng(state.rng).dropout, 0)

    def loss_fn(params):
        logits = model.apply({"params": params}, images / 255, train=True, rngs={"dropout": dropout})
        return cross_entropy(logits, labels, 0.2).mean()

    loss, gradient = jax.jit(jax.value_and_grad(loss_fn))(state.params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, gradient)
    trained, metrics, _ = make_train_steps(job)(state, zero_metrics(data), *data, np.int32(1))
    assert float(metrics.loss_sum) == pytest.approx(float(loss), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), trained.params, expected)


def test_non_finite_loss_stops_training_before_the_update():
    train_steps, state, data = setup()
    params_with_nan = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan) if leaf.ndim == 1 else leaf, state.params)
    state = state.replace(params=params_with_nan)
    before = jax.tree.map(lambda leaf: leaf.copy(), state)
    after, metrics, diverged = train_steps(state, zero_metrics(data), *data, np.int32(4))
    assert diverged
    assert int(after.step) == 0
    assert int(metrics.num_images) == 0
    assert_equal_bits(before, after)


def test_update_does_not_copy_parameters():
    """Copying all kernels would cost a third of the time of a step; XLA does it if the old state is kept.

    Parameters and moments are also written in a single pass.
    """
    train_steps, state, data = setup()
    compiled = train_steps.lower(state, zero_metrics(data), *data, np.int32(0)).compile().as_text()
    for kernel in (leaf for leaf in jax.tree.leaves(state.params) if leaf.ndim > 1):
        array = rf"f32\[{','.join(map(str, kernel.shape))}\]\S*"
        copies = re.findall(rf"= {array} copy\(", compiled)
        assert not copies, copies
        assert re.search(rf"= \({array} (/\S+ )?{array} (/\S+ )?{array}\) fusion\(", compiled)


@pytest.mark.medium
@pytest.mark.parametrize("devices", [2, 4])
def test_number_of_devices_does_not_change_the_loss(devices):
    (state_of_one, metrics_of_one), (state_of_all, metrics_of_all) = run([4]), run([4], devices=devices)
    np.testing.assert_allclose(metrics_of_all.loss_sum, metrics_of_one.loss_sum, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state_of_all.batch_stats, state_of_one.batch_stats
    )
    train_steps, state, data = setup(devices)
    compiled = train_steps.lower(state, zero_metrics(data), *data, np.int32(4)).compile()
    assert "all-reduce" in compiled.as_text()  # the batch is sharded, and gradients are summed over devices


def evaluate(count, batch_size=8, num_rows=40, devices=1, padding=0):
    """Evaluates `count` images padded to `num_rows`, and returns the metrics, the expected logits and the labels."""
    mesh = data_mesh(jax.devices()[:devices])
    model = Tiny(3)
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    split = tiny_split(num_rows, 5)
    images, labels = split.images.copy(), split.labels.copy()
    images[count:] = padding
    expected = jax.jit(functools.partial(model.apply, train=False))(variables, images[:count] / np.float32(255))
    arguments = (variables["params"], variables["batch_stats"], images, labels)
    arguments = jax.device_put(arguments, replicated(mesh))
    program = make_evaluate(model, num_classes=3, batch_size=batch_size, mesh=mesh)
    metrics, all_logits = program(*arguments, np.int32(count))
    np.testing.assert_allclose(all_logits[:count], expected, rtol=1e-5, atol=1e-6)
    return metrics, expected, labels[:count]


@pytest.mark.medium
@pytest.mark.parametrize(("count", "batch_size"), [(21, 8), (24, 8), (5, 8), (40, 40), (1, 4)])
def test_evaluation_counts_each_image_once(count, batch_size):
    metrics, logits, labels = evaluate(count, batch_size)
    assert int(metrics.num_images) == count
    assert int(metrics.num_correct) == int((np.argmax(logits, -1) == labels).sum())
    np.testing.assert_allclose(metrics.loss_sum, cross_entropy(logits, jnp.asarray(labels)).sum(), rtol=1e-5)


@pytest.mark.medium
def test_padding_does_not_change_the_evaluation():
    assert_equal_bits(evaluate(21)[0], evaluate(21, padding=255)[0])


@pytest.mark.medium
def test_evaluation_on_four_devices_matches_one():
    one, four = evaluate(21)[0], evaluate(21, devices=4)[0]
    assert (int(one.num_images), int(one.num_correct)) == (int(four.num_images), int(four.num_correct))
    np.testing.assert_allclose(four.loss_sum, one.loss_sum, rtol=1e-6)
