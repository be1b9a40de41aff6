"""Runs that start from trained weights: what they take, that it is recognized again, and frozen parameters."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from run_records import ONE_DEVICE, assert_same_run, final_arrays, interrupt_after, run_of

from cifar_flax import evaluate, export, inference, predict, report, train
from cifar_flax.data import Dataset
from cifar_flax.errors import BadInput, Interrupted
from cifar_flax.inference import load_run
from cifar_flax.resume import SavedPositions
from cifar_flax.train import train_and_evaluate
from cifar_flax.training.job import abstract_state, make_job
from cifar_flax.weights import start
from cifar_flax.weights.start import find_start
from cifar_flax.weights.transfer import by_name, layer_of
from cifar_flax.workdir import checksums
from cifar_flax.workdir.records import Records

pytestmark = pytest.mark.medium

NAMES = ("dark", "middle", "light")  # of the tiny dataset
OTHER_NAMES = ("red", "green", "blue")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("init_from")


@pytest.fixture(autouse=True)
def source(folder, tiny_config):
    """The workdir of a finished run on the tiny dataset, which is trained once."""
    workdir = folder / "source"
    if not workdir.exists():
        train_and_evaluate(tiny_config, workdir, ONE_DEVICE)
    return workdir


@pytest.fixture
def config(tiny_config, source, tiny_dataset, monkeypatch):
    """A config that starts from `source`, for the same images with other class names."""
    renamed = Dataset(tiny_dataset.train, tiny_dataset.validation, tiny_dataset.test, OTHER_NAMES)
    for module in (train, inference):
        monkeypatch.setattr(module, "load", lambda config: renamed)
    tiny_config.update(init_from=str(source), seed=1)
    return tiny_config


@pytest.fixture
def run(folder, config, tmp_path):
    """The workdir of a finished run of `config`, and `source`, both copied to a folder of this test."""
    if not (folder / "run").exists():
        train_and_evaluate(config, folder / "run", ONE_DEVICE)
    shutil.copytree(folder / "run", tmp_path / "run")
    shutil.copytree(config.init_from, tmp_path / "source")
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    config.init_from = str(tmp_path / "source")
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored | {"init_from": config.init_from}))
    return tmp_path / "run"


@pytest.fixture
def other(folder, tiny_config, source):
    """The workdir of a run like `source` with another seed."""
    if not (folder / "other").exists():
        config = tiny_config.copy_and_resolve_references()
        config.update(init_from=None, seed=7, num_epochs=0.25)
        train_and_evaluate(config, folder / "other", ONE_DEVICE)
    return folder / "other"


@pytest.fixture
def single_steps(monkeypatch):
    """Makes each chunk one step, so that a signal can arrive after any step."""
    monkeypatch.setattr(train, "FIRST_CHUNK", 1)
    monkeypatch.setattr(train, "CHUNK_SECONDS", 0)


@pytest.fixture
def first_states(monkeypatch):
    """The states before the first step of the runs of this test."""
    states = []
    restore_or_init = SavedPositions.restore_or_init

    def spy(saved, images):
        position = restore_or_init(saved, images)
        states.append(jax.device_get(position.state.replace(rng=0)))
        return position

    monkeypatch.setattr(SavedPositions, "restore_or_init", spy)
    return states


def find(config, workdir, class_names=OTHER_NAMES, side=8):
    """What a run on images [side, side, 3] starts from."""
    config.lowering = "library"
    network = abstract_state(make_job(config, 70, len(class_names), ONE_DEVICE), (side, side, 3))[0]
    return find_start(config, Records(workdir), network, class_names)


def arrays_of(workdir):
    """The arrays of the best checkpoint, by their names."""
    classifier = load_run(workdir)
    return by_name(*jax.device_get((classifier.params, classifier.batch_stats)))


def last_params(workdir):
    """The parameters after the last step, by their names."""
    stored = {re.sub(r"\W+", "/", path).strip("/"): array for path, array in final_arrays(workdir).items()}
    return {name.removeprefix("0/"): array for name, array in stored.items() if name.startswith("0/params/")}


def assert_changed(before, after, layers):
    """Asserts that the bits of the arrays of these layers are the same, and all other arrays differ."""
    for name, array in after.items():
        assert (array.tobytes() != before[name].tobytes()) == (layer_of(name) in layers), name


@pytest.mark.parametrize("count", [1, 4])
def test_body_is_taken_and_the_head_begins_anew(count, config, source, tmp_path, first_states, capsys):
    config.update(average_every=2, optimizer="sgd", learning_rate=0.01)
    train_and_evaluate(config, tmp_path / "w", jax.devices()[:count])
    [state] = first_states
    start = by_name(state.params, state.batch_stats)
    assert_changed(arrays_of(source), start, ["output"])
    assert_changed(start, by_name(*state.average), [])
    record = run_of(tmp_path / "w")["init_from"]
    assert (record["path"], record["taken"], record["new"]) == (
        str(source),
        {"conv1": 112, "norm1": 16},
        {"output": 195},
    )
    out = capsys.readouterr().out
    assert f"start       {source}: conv1, norm1 (128 values) taken\n" in out
    assert "            output (195 values) begins anew\n" in out


def test_layers_that_are_taken_depend_on_classes_and_image_size(config, tmp_path):
    for class_names, side, taken in (
        (NAMES, 8, ["conv1", "norm1", "output"]),
        (NAMES[::-1], 8, ["conv1", "norm1"]),
        (NAMES, 12, ["conv1", "norm1"]),
        ((*NAMES, "fox"), 8, ["conv1", "norm1"]),
    ):
        record = find(config, tmp_path, class_names, side).record
        assert [*record["taken"], *record["new"]] == ["conv1", "norm1", "output"]
        assert list(record["taken"]) == taken


def test_classes_without_names_are_not_the_same(monkeypatch, config, tmp_path):
    """A .npz without names calls its classes 0, 1, 2, whatever they are."""
    monkeypatch.setattr(start, "_read", lambda config, read=start._read: with_names(read(config), ["0", "1", "2"]))
    assert list(find(config, tmp_path, ("0", "1", "2")).record["taken"]) == ["conv1", "norm1"]


def with_names(weights, names):
    return weights._replace(metadata=weights.metadata | {"class_names": names})


def test_exported_file_of_the_run_is_the_same_start(config, tmp_path):
    workdir, expected = config.init_from, find(config, tmp_path)
    for form in ("npz", "safetensors"):
        exported = tmp_path / f"exported.{form}"
        export.command(["--workdir", workdir, "--format", form, "--output", str(exported)])
        config.init_from = str(exported)
        assert find(config, tmp_path).record == expected.record | {"path": str(exported)}


def write_status(workdir, status):
    (workdir / "run.json").write_text(json.dumps(checksums.add_checksum(run_of(workdir) | {"status": status})))


def test_best_epoch_so_far_of_an_unfinished_run_is_taken_and_that_is_said(run, config, tmp_path, capsys):
    write_status(tmp_path / "source", "interrupted")
    find(config, tmp_path / "new")
    epoch = run_of(tmp_path / "source")["best_epoch"]
    assert capsys.readouterr().err == (
        f"config.init_from: the run in {tmp_path / 'source'} is interrupted; this run starts from its best epoch so "
        f"far, {epoch}\n"
    )


def damage(workdir):
    for file in (workdir / "checkpoints" / "best").rglob("*"):
        if file.is_file() and "/arrays/" in str(file):
            file.write_bytes(file.read_bytes()[:-20])


UNUSABLE = {
    "missing": ({"init_from": "nothing.npz"}, "nothing.npz does not exist"),
    "no run": ({"init_from": "."}, "there is no run in"),
    "own workdir": ({"init_from": "new"}, "new is the workdir of this run; name another run or a file"),
    "no checkpoint": (lambda source: shutil.rmtree(source / "checkpoints"), "has no checkpoint yet"),
    "damaged": (damage, "checkpoints/best"),
    "damaged record": (lambda source: (source / "run.json").write_text("{"), "run.json cannot be read"),
    "another model": ({"model": "mlp"}, "is of the model tiny, and config.model is mlp; use the same model"),
    "standardized": (
        {"normalize": True},
        "was trained with normalize=False, and config.normalize is True; use the same",
    ),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_source_that_cannot_be_used_is_refused_in_one_line(kind, run, config, tmp_path):
    change, words = UNUSABLE[kind]
    if callable(change):
        change(tmp_path / "source")
    else:
        config.update(change)
        config.init_from = str(tmp_path / config.init_from)
    with pytest.raises(BadInput) as error:
        find(config, tmp_path / "new")
    message = str(error.value)
    assert message.startswith("config.init_from: ")
    assert words in message
    assert "\n" not in message
    assert "--workdir" not in message


def test_refused_start_changes_nothing(config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config.init_from = "nothing"
    with pytest.raises(BadInput, match=f"^config.init_from: {tmp_path / 'nothing'} does not exist"):
        train_and_evaluate(config, tmp_path / "new", ONE_DEVICE)
    assert not (tmp_path / "new").exists()
    assert capsys.readouterr().out == ""


def test_frozen_epochs_without_a_new_parameter_are_refused(config, tmp_path):
    config.frozen_epochs = 1.0
    with pytest.raises(BadInput, match=r"^config.frozen_epochs: 1.0 is not valid; use 0, because all parameters are"):
        find(config, tmp_path, NAMES)


def replace(tmp_path, other):
    shutil.rmtree(tmp_path / "source")
    shutil.copytree(other, tmp_path / "source")


@pytest.mark.parametrize("where", ["another path", "same path"])
@pytest.mark.parametrize("num_epochs", [2.0, 3.0])
def test_other_arrays_are_refused(where, num_epochs, run, config, other, tmp_path):
    if where == "same path":
        replace(tmp_path, other)
    else:
        config.init_from = str(other)
    config.num_epochs = num_epochs
    before = (run / "run.json").read_text()
    with pytest.raises(BadInput) as error:
        train_and_evaluate(config, run, ONE_DEVICE)
    assert str(error.value) == (
        f"config.init_from: {config.init_from} is not what the run started from (other arrays); name the original "
        "weights, wherever they are now, or choose another workdir"
    )
    assert (run / "run.json").read_text() == before


def test_other_arrays_are_refused_by_the_checkpoint_if_the_record_is_lost(run, config, other, tmp_path):
    (run / "run.json").unlink()
    replace(tmp_path, other)
    with pytest.raises(BadInput, match="is not what the run started from"):
        train_and_evaluate(config, run, ONE_DEVICE)


def test_run_with_and_without_a_start_have_different_configs(run, source, config):
    stored, config.init_from = config.init_from, None
    with pytest.raises(BadInput, match=f"another config \\(init_from: '{stored}' -> None\\)"):
        train_and_evaluate(config, run, ONE_DEVICE)


@pytest.mark.parametrize("change", ["moved", "exported", "deleted", "deleted, and the record is lost"])
def test_run_continues_wherever_its_start_is(change, run, config, tmp_path, capsys):
    expected = run_of(run)["init_from"]
    if change == "moved":
        (tmp_path / "source").rename(tmp_path / "moved")
        config.init_from = str(tmp_path / "moved")
    elif change == "exported":
        export.command(["--workdir", config.init_from, "--output", str(tmp_path / "w.npz")])
        config.init_from = str(tmp_path / "w.npz")
    else:
        shutil.rmtree(tmp_path / "source")
    if "lost" in change:
        (run / "run.json").unlink()
    else:
        assert train_and_evaluate(config, run, ONE_DEVICE)["status"] == "done"
        assert "This run is done" in capsys.readouterr().out
    config.num_epochs = 3.0
    train_and_evaluate(config, run, ONE_DEVICE)
    record = run_of(run)["init_from"]
    path = config.init_from if change in ("moved", "exported") else expected["path"]
    assert record == expected | {"path": path}
    assert "resuming after step 8 of 12" in capsys.readouterr().out


def test_path_that_the_run_does_not_know_must_exist(run, config, tmp_path):
    config.init_from = str(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match=r"^config.init_from: .*elsewhere does not exist"):
        train_and_evaluate(config, run, ONE_DEVICE)


OPTIMIZERS = {
    "adam": {"weight_decay": 0.1},
    "sgd": {"weight_decay": 0.1, "learning_rate": 0.05, "average_every": 2, "schedule": "linear", "warmup": 0.3},
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_frozen_parameters_do_not_change_by_a_bit(optimizer, config, source, tmp_path, capsys):
    config.update(OPTIMIZERS[optimizer], optimizer=optimizer, num_epochs=1.0, frozen_epochs=1.0)
    train_and_evaluate(config, tmp_path / "w", jax.devices()[:2])
    assert_changed(arrays_of(source), last_params(tmp_path / "w"), ["output"])
    assert "(128 values) taken, frozen for 1 epochs\n" in capsys.readouterr().out
    changed = arrays_of(tmp_path / "w")["batch_stats/norm1/mean"] != arrays_of(source)["batch_stats/norm1/mean"]
    assert changed.any()  # BatchNorm's statistics follow the new images


def test_frozen_run_is_resumed_and_extended_to_the_bit(config, source, tmp_path, monkeypatch, single_steps):
    """The start is deleted meanwhile. Of the eight steps, five are frozen."""
    shutil.copytree(source, tmp_path / "source")
    config.update(init_from=str(tmp_path / "source"), frozen_epochs=1.25)
    train_and_evaluate(config, tmp_path / "undisturbed", ONE_DEVICE)
    assert_changed(arrays_of(source), last_params(tmp_path / "undisturbed"), ["conv1", "norm1", "output"])
    config.num_epochs = 1.0
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(Interrupted):
            train_and_evaluate(config, tmp_path / "w", ONE_DEVICE)
    shutil.rmtree(tmp_path / "source")
    train_and_evaluate(config, tmp_path / "w", ONE_DEVICE)
    assert_changed(arrays_of(source), last_params(tmp_path / "w"), ["output"])
    config.num_epochs = 2.0
    train_and_evaluate(config, tmp_path / "w", ONE_DEVICE)
    assert_same_run(tmp_path / "w", tmp_path / "undisturbed")


def test_missing_start_of_a_run_that_has_lost_its_checkpoints_is_an_error(run, config, tmp_path):
    shutil.rmtree(tmp_path / "source")
    for name in ("run.json", "metrics.jsonl"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(BadInput, match=r"^config.init_from: .*source does not exist"):
        train_and_evaluate(config, run, ONE_DEVICE)


def test_commands_take_a_run_with_a_start_and_frozen_parameters(config, tmp_path, capsys):
    config.update(frozen_epochs=1.0, num_epochs=0.5)
    train_and_evaluate(config, tmp_path / "w", ONE_DEVICE)
    capsys.readouterr()
    evaluate.command(["--workdir", str(tmp_path / "w"), "--json"])
    assert json.loads(capsys.readouterr().out)["accuracy"] == run_of(tmp_path / "w")["test_accuracy"]
    report.command([str(tmp_path / "w")])
    assert config.init_from in (tmp_path / "w" / "report.html").read_text()
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
    predict.command(["--workdir", str(tmp_path / "w"), str(tmp_path / "black.png")])
    assert "red" in capsys.readouterr().out
    export.command(["--workdir", str(tmp_path / "w"), "--output", str(tmp_path / "w.npz")])
    with np.load(tmp_path / "w.npz") as stored:
        assert "params/output/kernel" in stored.files
