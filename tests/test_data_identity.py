"""A run belongs to the images, labels and class names that it was trained on, wherever they are."""

import json
import shutil

import numpy as np
import pytest
from processes import assert_one_line, call, command, train_command, write_dataset
from run_records import ONE_DEVICE, metrics_of, run_of

from cifar_flax import inference, train
from cifar_flax.data import Dataset
from cifar_flax.errors import BadInput
from cifar_flax.inference import load_run, load_split
from cifar_flax.train import train_and_evaluate
from cifar_flax.workdir import checkpoints, checksums, identity

pytestmark = pytest.mark.medium

NAMES = np.array(["cat", "dog", "emu"])


def contents(workdir):
    """The text files of a workdir and its list of checkpoints."""
    files = [path for path in workdir.iterdir() if path.suffix in (".json", ".jsonl")]
    return {path.name: path.read_text() for path in files}, sorted((workdir / "checkpoints").glob("*/*"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run, `run`, on `d.npz`, which was named by a relative path."""
    folder = tmp_path_factory.mktemp("identity")
    write_dataset(folder / "d.npz", class_names=NAMES)
    code, _, err = call(train_command("d.npz", "run"), cwd=folder)
    assert (code, err) == (0, "")
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the run without its dataset."""
    shutil.copytree(folder / "run", tmp_path / "run")
    return tmp_path


REPLACED = {
    "fewer": ({"count": 48}, ["training images: 48 -> 16", "test images: 32 -> 16"]),
    "other_images": ({"x_test": np.zeros((32, 8, 8, 3), np.uint8)}, ["other test images"]),
    "other_labels": ({"y_train": np.arange(64)[::-1] % 3}, ["other training labels"]),
    "other_names": ({"class_names": NAMES[::-1]}, ["class 0: 'cat' -> 'emu'"]),
    "more_classes": ({"class_names": np.array([*NAMES, "fox"])}, ["classes: 3 -> 4"]),
}


@pytest.mark.parametrize("kind", REPLACED)
def test_replaced_data_is_refused_and_nothing_is_changed(kind, copy):
    changes, words = REPLACED[kind]
    write_dataset(copy / "d.npz", **({"class_names": NAMES} | changes))
    before = contents(copy / "run")
    for more in ("--config.num_epochs=2", "--config.num_epochs=1"):
        assert_one_line(call(train_command("d.npz", "run", more), cwd=copy), "config.dataset: ", *words)
    assert contents(copy / "run") == before


@pytest.mark.parametrize("name", ["evaluate", "report"])
def test_commands_refuse_replaced_data(name, copy):
    write_dataset(copy / "other.npz", count=48, class_names=NAMES)
    arguments = ["--workdir=run"] if name == "evaluate" else ["run"]
    refused = call(command(name, *arguments, "--dataset=other.npz"), cwd=copy)
    assert_one_line(refused, "--dataset: other.npz is not what the run was trained on", "test images: 32 -> 16")


def test_same_data_at_another_path_continues(folder, copy):
    (copy / "job2").mkdir()
    shutil.copy(folder / "d.npz", copy / "job2" / "moved.npz")
    code, out, err = call(train_command("job2/moved.npz", "run", "--config.num_epochs=2"), cwd=copy)
    assert (code, err) == (0, "")
    assert "resuming after step 3 of 6" in out
    assert run_of(copy / "run")["dataset"] == str(copy / "job2" / "moved.npz")


def test_relative_path_works_from_another_folder(folder, tmp_path):
    assert json.loads((folder / "run" / "config.json").read_text())["dataset"] == str(folder / "d.npz")
    for name, arguments in (("evaluate", ["--workdir", folder / "run"]), ("report", [folder / "run", "--out=r.html"])):
        code, _, err = call(command(name, *arguments), cwd=tmp_path)
        assert (code, err) == (0, "")


def test_moved_data_is_named_by_a_flag(folder, copy):
    (folder / "d.npz").rename(copy / "moved.npz")
    try:
        missing = call(command("evaluate", "--workdir=run"), cwd=copy)
        assert_one_line(missing, f"{folder / 'd.npz'} does not exist", "--dataset")
        for name, arguments in (("evaluate", ["--workdir=run"]), ("report", ["run"])):
            code, _, err = call(command(name, *arguments, "--dataset=moved.npz"), cwd=copy)
            assert (code, err) == (0, "")
    finally:
        (copy / "moved.npz").rename(folder / "d.npz")


def test_finished_run_whose_data_is_gone_still_shows_its_result(copy):
    code, out, err = call(train_command(copy / "d.npz", "run"), cwd=copy)
    assert_one_line((code, out, err), "d.npz does not exist")  # a path that the run does not know
    config = json.loads((copy / "run" / "config.json").read_text())
    (copy / "run" / "config.json").write_text(json.dumps(config | {"dataset": str(copy / "d.npz")}))
    code, out, err = call(train_command(copy / "d.npz", "run"), cwd=copy)
    assert (code, err) == (0, "")
    assert "This run is done" in out


def forget_data(workdir):
    """Makes a run look as if an older version of the program, which did not record the data, had trained it."""
    record = {name: value for name, value in run_of(workdir).items() if name != "data_sha256"}
    (workdir / "run.json").write_text(json.dumps(checksums.add_checksum(record)))
    for file in (workdir / "checkpoints").glob("*/*/progress/metadata"):
        progress = {name: value for name, value in json.loads(file.read_text()).items() if name != "data"}
        file.write_text(json.dumps(checksums.add_checksum(progress)))


@pytest.fixture
def tiny_run(tiny_config, tmp_path):
    """The workdir of a finished run on the tiny dataset."""
    train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
    return tmp_path / "w"


def test_run_without_recorded_data_continues_and_says_so_once(tiny_run, tiny_config, capsys):
    forget_data(tiny_run)
    before = metrics_of(tiny_run)
    for epochs, remarks in ((3.0, 1), (4.0, 0)):
        tiny_config.num_epochs = epochs
        train_and_evaluate(tiny_config, tiny_run, ONE_DEVICE)
        assert capsys.readouterr().err.count("the images are not checked") == remarks
    assert metrics_of(tiny_run)[:2] == before
    assert set(run_of(tiny_run)["data_sha256"]) == {"train_images", "train_labels", "test_images", "test_labels"}


def test_run_without_recorded_data_is_told_by_the_path_of_its_dataset(folder, copy):
    forget_data(copy / "run")
    config = json.loads((copy / "run" / "config.json").read_text())
    (copy / "run" / "config.json").write_text(json.dumps(config | {"dataset": "d.npz"}))  # as it was typed
    write_dataset(copy / "other.npz", class_names=NAMES, x_test=np.zeros((32, 8, 8, 3), np.uint8))
    for more in ("--config.num_epochs=1", "--config.num_epochs=2"):
        refused = call(train_command("other.npz", "run", more), cwd=copy)
        assert_one_line(refused, f"another config (dataset: 'd.npz' -> '{copy / 'other.npz'}')")
    shutil.copy(folder / "d.npz", copy)
    code, _, err = call(train_command("d.npz", "run", "--config.num_epochs=2"), cwd=copy)
    assert (code, err.count("the images are not checked")) == (0, 1)


def test_commands_on_a_run_without_recorded_data_say_so(tiny_run, tiny_dataset, monkeypatch, capsys):
    monkeypatch.setattr(inference, "load", lambda config: tiny_dataset)
    load_split(load_run(tiny_run), "test")
    assert capsys.readouterr().err == ""
    forget_data(tiny_run)
    load_split(load_run(tiny_run), "test")
    assert capsys.readouterr().err == "the images are not checked, because this run was trained by an older version\n"


def test_run_without_recorded_data_is_still_compared_by_what_is_known(tiny_run, tiny_config, tiny_dataset, monkeypatch):
    forget_data(tiny_run)
    fewer = Dataset(tiny_dataset.train[:30], tiny_dataset.validation, tiny_dataset.test, tiny_dataset.class_names)
    monkeypatch.setattr(train, "load", lambda config: fewer)
    tiny_config.num_epochs = 3.0
    with pytest.raises(BadInput, match="training images: 70 -> 30"):
        train_and_evaluate(tiny_config, tiny_run, ONE_DEVICE)


def test_data_is_compared_with_the_checkpoint_if_the_record_is_lost(tiny_run, tiny_config, tiny_dataset, monkeypatch):
    (tiny_run / "run.json").unlink()
    renamed = Dataset(tiny_dataset.train, tiny_dataset.validation, tiny_dataset.test, ("light", "middle", "dark"))
    monkeypatch.setattr(train, "load", lambda config: renamed)
    with pytest.raises(BadInput, match="class 0: 'dark' -> 'light'"):
        train_and_evaluate(tiny_config, tiny_run, ONE_DEVICE)
    assert not (tiny_run / "run.json").exists()


def test_class_names_belong_to_the_checkpoint(tiny_run):
    record = run_of(tiny_run) | {"class_names": ["light", "middle", "dark"]}
    (tiny_run / "run.json").write_text(json.dumps(checksums.add_checksum(record)))
    assert load_run(tiny_run).class_names == ["dark", "middle", "light"]


def test_split_of_the_same_size_but_another_content_is_refused(tiny_run, tiny_dataset, monkeypatch):
    darker = Dataset(tiny_dataset.train, tiny_dataset.validation, tiny_dataset.test, tiny_dataset.class_names)
    darker.test.images[0] = 0
    monkeypatch.setattr(inference, "load", lambda config: darker)
    with pytest.raises(BadInput, match=r"^--dataset: .* \(other test images\)"):
        load_split(load_run(tiny_run), "test")


@pytest.mark.parametrize("step", [3, 9, 1_000])
def test_checkpoint_that_is_not_within_its_epoch_is_refused(step, tiny_run, tiny_config, monkeypatch):
    """The loop must end for any stored step."""
    read = checkpoints.read

    def moved(manager, stored, like):
        (state, metrics), progress = read(manager, stored, like)
        return (state.replace(step=state.step * 0 + step), metrics), progress | {"epochs": progress["epochs"][:1]}

    monkeypatch.setattr(checkpoints, "read", moved)
    tiny_config.num_epochs = 3.0
    (tiny_run / "metrics.jsonl").unlink()
    with pytest.raises(BadInput, match=f"is step {step}, but epoch 2 of this command has the steps 4 to 8"):
        train_and_evaluate(tiny_config, tiny_run, ONE_DEVICE)


def test_fingerprint_does_not_depend_on_the_size_of_the_validation_split(tiny_dataset):
    images = [np.concatenate([tiny_dataset.validation.images, tiny_dataset.train.images])]
    labels = [np.concatenate([tiny_dataset.validation.labels, tiny_dataset.train.labels])]
    split = type(tiny_dataset.train)(images[0], labels[0])
    other = Dataset(split[5:], split[:5], tiny_dataset.test, tiny_dataset.class_names)
    assert other.sha256() == tiny_dataset.sha256()
    assert identity.describe_data(other)["data_sha256"] == other.sha256()
