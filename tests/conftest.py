"""Strict jax, four fake CPU devices, and a cache of the tests' own."""

import os

# before jax is imported
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Nothing of the user's cache is read or written."""
    os.environ["CIFAR_FLAX_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def device():
    """A single device, for tests that are not about several."""
    return [jax.devices()[0]]
