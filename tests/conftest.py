"""Shared fixtures: strict jax settings, four simulated CPU devices, private caches, and a run that takes seconds."""

import os
import shutil
import sys

# must be set before jax is imported
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"  # even on a machine with a GPU
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"

import jax
import pytest
from tiny import Tiny, tiny_split

from cifar_flax import config, train
from cifar_flax.cli import commandline
from cifar_flax.data import Dataset
from cifar_flax.models import MODELS
from cifar_flax.ops.xla_options import choose_options
from cifar_flax.reporting import run_figures

choose_options()  # as the commands do
commandline.collect_garbage_rarely()
jax.config.update("jax_numpy_rank_promotion", "raise")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(autouse=True, scope="session")
def _private_caches(tmp_path_factory):
    """Leaves the user's caches untouched, and compiles each program only once for a worker and its processes."""
    os.environ["CIFAR_FLAX_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    # a process that is killed while it writes a program leaves a part of it, which others skip with a warning
    os.environ["PYTHONWARNINGS"] = "ignore:Error reading persistent compilation cache entry"


@pytest.fixture(autouse=True)
def _errors_of_finalizers(monkeypatch):
    """Reports them by pytest's hook, also after a command."""
    monkeypatch.setattr(commandline, "_report_unraisable", sys.unraisablehook)


@pytest.fixture(autouse=True)
def _few_images_in_figures(monkeypatch):
    """Hundreds of tiny runs would draw dozens each."""
    monkeypatch.setattr(run_figures, "NUM_TRAINING", 3)
    monkeypatch.setattr(run_figures, "NUM_PREDICTIONS", 3)


@pytest.fixture
def tiny_dataset():
    """70 training, 21 validation and 27 test images [8, 8, 3] of three classes; no multiples of the batch size."""
    return Dataset(tiny_split(70, 0), tiny_split(21, 1), tiny_split(27, 2), ("dark", "middle", "light"))


@pytest.fixture
def tiny_config(monkeypatch, tiny_dataset):
    """A config for two epochs of four steps on the tiny dataset, which `train.load` is patched to return."""
    monkeypatch.setitem(MODELS, "tiny", Tiny)
    monkeypatch.setattr(train, "load", lambda config: tiny_dataset)
    fields = config.base_config()
    fields.update(model="tiny", experiment="tiny", dataset="tiny", num_epochs=2.0, batch_size=16, eval_batch_size=8)
    fields.augment = "shift_flip"
    return fields


@pytest.fixture(scope="module")
def browser():
    """An installed Chromium, without a window."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()
