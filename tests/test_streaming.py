"""Images that are streamed from the host: the same numbers as with the images on the device, and no copy in memory."""

import jax
import numpy as np
import optax
import pytest
from data.data_files import IMAGES, read, write_npz
from run_records import ONE_DEVICE, assert_same_run, interrupt_after

from cifar_flax import data, train
from cifar_flax.config import base_config
from cifar_flax.data import host_memory, npz, statistics
from cifar_flax.errors import BadInput, Diverged, Interrupted
from cifar_flax.evaluate import evaluate
from cifar_flax.inference import load_run
from cifar_flax.train import train_and_evaluate
from cifar_flax.training import job, memory, streaming

IMAGE_BYTES = 8 * 8 * 3


@pytest.fixture(autouse=True)
def pieces_of_three_batches(monkeypatch):
    """An epoch of four steps of 16 images takes two pieces, which overlap; evaluation takes several."""
    monkeypatch.setattr(streaming, "PIECE_BYTES", 3 * 16 * IMAGE_BYTES)


@pytest.fixture
def everything(tiny_config):
    """A config with all that a step and an evaluation can have."""
    tiny_config.update(tta="mirror_translate", average_every=2, normalize=True, label_smoothing=0.1, num_epochs=2.5)
    return tiny_config


def run(config, workdir, stream, devices=ONE_DEVICE):
    config.stream = stream
    return train_and_evaluate(config, workdir, devices)


@pytest.mark.medium
@pytest.mark.parametrize(("num_devices", "num_batches"), [(1, 3), (4, 1)])
def test_streamed_run_has_the_same_bits(num_devices, num_batches, everything, tmp_path, monkeypatch):
    devices = jax.devices()[:num_devices]
    monkeypatch.setattr(train, "FIRST_CHUNK", 3)  # the second call of an epoch starts in the last piece
    monkeypatch.setattr(streaming, "PIECE_BYTES", num_batches * 16 * IMAGE_BYTES)
    resident, streamed = (run(everything, tmp_path / f"{stream}", stream, devices) for stream in (False, True))
    assert_same_run(tmp_path / "False", tmp_path / "True")
    assert streamed["tta_test_loss"] == resident["tta_test_loss"]


@pytest.mark.medium
def test_run_is_resumed_with_the_other_setting(everything, tmp_path, monkeypatch):
    run(everything, tmp_path / "undisturbed", False)
    monkeypatch.setattr(train, "CHUNK_SECONDS", 0)
    for num_updates, stream in ((2, False), (4, True)):  # in the middle of the first and of the second epoch
        with monkeypatch.context() as patch:
            interrupt_after(patch, num_updates)
            with pytest.raises(Interrupted):
                run(everything, tmp_path / "w", stream)
    run(everything, tmp_path / "w", False)
    assert_same_run(tmp_path / "undisturbed", tmp_path / "w")


@pytest.mark.medium
def test_streamed_run_diverges_at_the_same_step(tiny_config, tmp_path, monkeypatch):
    def make_broken_optimizer(*arguments):
        return optax.sgd(lambda count: jax.numpy.where(count == 5, jax.numpy.inf, 0.01))

    monkeypatch.setattr(job, "make_optimizer", make_broken_optimizer)
    monkeypatch.setattr(train, "FIRST_CHUNK", 4)  # both pieces of an epoch are on their way when the first one diverges
    reasons = []
    for stream in (False, True):
        with pytest.raises(Diverged) as error:
            run(tiny_config, tmp_path / f"{stream}", stream)
        reasons.append(str(error.value))
    assert reasons == ["a parameter after step 6 (epoch 2) is not finite"] * 2


@pytest.mark.medium
def test_images_that_would_fill_the_memory_are_streamed(tiny_config, tiny_dataset, tmp_path, monkeypatch, capsys):
    num_bytes = 118 * IMAGE_BYTES
    monkeypatch.setattr(memory, "host_memory", lambda: 2 * num_bytes)
    assert not memory.too_large(tiny_dataset, ONE_DEVICE)
    monkeypatch.setattr(memory, "host_memory", lambda: 2 * num_bytes - 2)
    record = train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    assert "images streamed from the host" in capsys.readouterr().out
    assert evaluate(load_run(tmp_path), tiny_dataset.test)["loss"] == record["test_loss"]


@pytest.mark.medium
def test_batch_that_does_not_fit_is_named(tiny_config, tmp_path, monkeypatch):
    def out_of_memory(*arguments):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8590262888 bytes.")

    monkeypatch.setattr(streaming, "gather", out_of_memory)
    with pytest.raises(BadInput, match=r"^config.batch_size: 16 images at once do not fit into memory; use a smaller"):
        run(tiny_config, tmp_path, True)


def test_statistics_of_the_images_are_exact(tiny_dataset, monkeypatch):
    monkeypatch.setattr(statistics, "COUNTED_AT_ONCE", 32)
    images = tiny_dataset.train.images
    mean, variance = statistics.channel_statistics(images)
    np.testing.assert_array_equal(mean, np.float32((images / 255).mean((0, 1, 2))))
    np.testing.assert_array_equal(variance, np.float32((images / 255).var((0, 1, 2))))


def test_control_groups_limit_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(host_memory, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(host_memory, "MOUNT", tmp_path)
    everything = host_memory.host_memory()  # no control groups, as on macOS
    (tmp_path / "cgroup").write_text("4:memory:/job/step\n3:cpu:/job\n0::/task/part\n")
    for folder, name, limit in (
        ("memory/job/step", "memory.limit_in_bytes", 2**63 - 4096),  # of version 1, without a limit
        ("task/part", "memory.max", "max"),  # of version 2
        ("task", "memory.max", 3 * 2**20),
    ):
        assert host_memory.host_memory() == everything
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).write_text(f"{limit}\n")
    assert host_memory.host_memory() == 3 * 2**20
    (tmp_path / "memory/memory.limit_in_bytes").write_text("1048576\n")
    assert host_memory.host_memory() == 2**20


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_FLAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(npz, "UNPACKED_BYTES", 1000)
    return tmp_path / "cache"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_large_npz_is_mapped_from_the_cache(save, own_cache, tmp_path, capsys):
    file = write_npz(tmp_path)
    expected = read(file, num_validation=0)
    with np.load(file) as arrays:
        save(file, **arrays)
    for _ in range(2):
        images = read(file).train.images
        assert isinstance(images.base, np.memmap)  # pages of the file
        np.testing.assert_array_equal(images, IMAGES[:20])
        (entry,) = own_cache.iterdir()
    np.testing.assert_array_equal(read(file).test.labels, expected.test.labels)
    (entry / "x_train.npy").write_bytes(b"")
    np.testing.assert_array_equal(read(file).train.images, IMAGES[:20])
    assert "is damaged; rebuilding it" in capsys.readouterr().err
    images = write_npz(tmp_path, x_train=IMAGES[1:21])
    np.testing.assert_array_equal(read(images).train.images, IMAGES[1:21])  # another content, another entry
    assert len(list(own_cache.iterdir())) == 2


def test_large_npz_without_room_in_the_cache_is_read_into_memory(own_cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 0}))
    np.testing.assert_array_equal(read(write_npz(tmp_path)).train.images, IMAGES[:20])
    assert f"{own_cache}: No space left on device" in capsys.readouterr().err
    assert not list(own_cache.iterdir())
    monkeypatch.setattr(npz, "MAX_BYTES", 1000)
    with pytest.raises(BadInput, match="x_train has 61440 bytes, more than the 1000 that remain of 1000"):
        read(write_npz(tmp_path))


def test_large_npz_that_is_damaged_leaves_no_entry(own_cache, tmp_path):
    file = write_npz(tmp_path)
    content = bytearray(file.read_bytes())
    content[content.index(IMAGES[0].tobytes()) + 7] ^= 1
    file.write_bytes(content)
    with pytest.raises(BadInput, match=f"^config.dataset: {file} is not a readable .npz .*CRC"):
        read(file)
    with pytest.raises(BadInput, match="x_train is float64"):
        read(write_npz(tmp_path, x_train=IMAGES[:20] / 255))
    assert not own_cache.exists() or not list(own_cache.iterdir())


def test_own_validation_split_is_not_copied(tmp_path, own_cache):
    splits = {"train": slice(0, 12), "val": slice(12, 20), "test": slice(20, 24)}
    arrays = {f"{name}_images": IMAGES[rows] for name, rows in splits.items()}
    labels = {f"{name}_labels": np.arange(24)[rows] % 4 for name, rows in splits.items()}
    np.savez(tmp_path / "set.npz", **arrays, **labels)
    config = base_config()
    config.dataset = str(tmp_path / "set.npz")
    dataset = data.load(config)
    assert isinstance(dataset.train.images.base, np.memmap)
    np.testing.assert_array_equal(dataset.validation.images, IMAGES[12:20])
    config.num_validation = 0
    np.testing.assert_array_equal(data.load(config).train.images, np.concatenate([IMAGES[12:20], IMAGES[:12]]))
