"""What GPUs and TPUs are given: the programs of all experiments, lowered here, where there is neither."""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_flax.cli.experiment import load_experiment
from cifar_flax.models import has_setting, resolve_lowering
from cifar_flax.training.evaluation import make_evaluate
from cifar_flax.training.job import abstract_state, make_job
from cifar_flax.training.sharding import replicated
from cifar_flax.training.steps import make_epoch_order, make_train_steps
from cifar_flax.training.streaming import StreamedEvaluation, StreamedSteps, abstract_piece

EXPERIMENTS = sorted(path.stem for path in Path(__file__).parents[2].glob("experiments/*.py"))
SHAPE, NUM_IMAGES = (32, 32, 3), 10_000
# between host and device, or a Python function on the host
TRANSFERS = re.compile(r"callback|infeed|outfeed|stablehlo\.(send|recv)|annotate_device_placement|pinned_host")
LARGE_CONSTANT = re.compile(r'dense<"0x[0-9A-F]{20000,}')  # more than 10 kB, such as captured images
pytestmark = pytest.mark.medium


def programs(name, platform, dtype="float32"):
    """(name, jitted function, abstract arguments) of all programs of a run on two devices of a platform."""
    config = load_experiment(name)
    config.update(lowering=resolve_lowering(config, platform), dtype=dtype)
    job = make_job(config, NUM_IMAGES, 10, jax.devices()[:2])
    place = partial(jax.ShapeDtypeStruct, sharding=replicated(job.mesh))
    state, metrics = jax.tree.map(lambda leaf: place(leaf.shape, leaf.dtype), abstract_state(job, SHAPE))
    images, labels = place((NUM_IMAGES, *SHAPE), jnp.uint8), place((NUM_IMAGES,), jnp.int32)
    order = place((NUM_IMAGES,), jnp.int32)
    count, false = np.int32(NUM_IMAGES), np.False_
    piece = abstract_piece(2, job.batch_size, SHAPE, job.mesh)
    settings = {"num_classes": 10, "batch_size": config.eval_batch_size, "mesh": job.mesh}
    yield "order", make_epoch_order(job, NUM_IMAGES), (state.rng, count)
    yield "training", make_train_steps(job), (state, metrics, order, images, labels, count)
    yield "streamed training", StreamedSteps(job)._program, (state, metrics, false, piece, count)
    network = state.params, state.batch_stats
    for tta in {"none", config.tta}:
        evaluate = make_evaluate(job.model, **settings, tta=tta)
        yield f"evaluation, tta {tta}", evaluate, (*network, images, labels, count)
    piece = abstract_piece(2, config.eval_batch_size, SHAPE, job.mesh)
    yield "streamed evaluation", StreamedEvaluation(job.model, **settings)._program, (*network, metrics, piece, count)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_all_programs_lower_for_accelerators_and_stay_there(name, platform):
    for title, program, arguments in programs(name, platform):
        text = program.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
        assert "f64" not in text, title
        assert not TRANSFERS.findall(text), title
        assert not LARGE_CONSTANT.findall(text), title


@pytest.mark.parametrize("name", ["cnn_augmented", "alexnet", "airbench94_muon"])
def test_bfloat16_reaches_all_convolutions(name):
    assert has_setting(load_experiment(name).model, "dtype")
    for title, program, arguments in list(programs(name, "cuda", "bfloat16"))[1:]:  # the first draws the order
        text = program.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
        convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
        assert convolutions, title
        assert all("bf16" in line for line in convolutions), title
