"""Strict jax, four fake CPU devices, a cache of the tests' own, and a run small enough to be repeated."""

import os

# before jax is imported
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=4"
    " --xla_backend_extra_options=xla_cpu_use_multi_output_fusion"  # as the commands do
)
os.environ["JAX_PLATFORMS"] = "cpu"  # on a machine with a GPU, too
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifar_flax import config, train
from cifar_flax.data import Dataset, Split
from cifar_flax.models import MODELS
from cifar_flax.ops.patches import LOWERINGS

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="session")
def _own_caches(tmp_path_factory):
    """Nothing of the user's cache is read or written; a program that many tests need is compiled once."""
    os.environ["CIFAR_FLAX_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


class Tiny(nn.Module):
    """A convolution, a pooling, BatchNorm and dropout: all that a training step has to carry along."""

    num_classes: int
    dtype: jnp.dtype = jnp.float32
    lowering: str = "library"

    @nn.compact
    def __call__(self, images, *, train):
        lowered = LOWERINGS[self.lowering]
        x = nn.relu(nn.Conv(4, (3, 3), conv_general_dilated=lowered.conv, name="conv1")(images))
        x = lowered.max_pool(x, (2, 2), (2, 2))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm1")(x)
        x = nn.Dropout(0.2, deterministic=not train)(x.reshape(x.shape[0], -1))
        return nn.Dense(self.num_classes, name="output")(x)


def tiny_split(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).astype(np.int32)
    images = rng.integers(0, 150, (count, 8, 8, 3)) + 50 * labels[:, None, None, None]
    return Split(images.astype(np.uint8), labels)


@pytest.fixture
def tiny_dataset():
    """70 training, 21 validation and 27 test images [8, 8, 3] of three classes: no batch size divides them."""
    return Dataset(tiny_split(70, 0), tiny_split(21, 1), tiny_split(27, 2), ("dark", "middle", "light"))


@pytest.fixture
def tiny_config(monkeypatch, tiny_dataset):
    """A config of two epochs of four steps on the tiny dataset, and everything in place for it."""
    monkeypatch.setitem(MODELS, "tiny", Tiny)
    monkeypatch.setattr(train, "load", lambda config: tiny_dataset)
    fields = config.base_config()
    fields.update(model="tiny", experiment="tiny", dataset="tiny", num_epochs=2.0, batch_size=16, eval_batch_size=8)
    fields.augment = "shift_flip"
    return fields
