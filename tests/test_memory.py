"""Batches and images that do not fit into memory: one line that names the field, and nothing is lost."""

import json

import pytest
from run_records import ONE_DEVICE, assert_same_run, metrics_of, run_of

from cifar_flax import train
from cifar_flax.errors import BadInput, is_out_of_memory
from cifar_flax.inference import load_run
from cifar_flax.train import train_and_evaluate
from cifar_flax.training import programs
from cifar_flax.workdir import checkpoints

pytestmark = pytest.mark.medium

MESSAGE = "RESOURCE_EXHAUSTED: Out of memory allocating 8590262888 bytes."


def out_of_memory(*arguments, **keywords):
    """As jax.errors.JaxRuntimeError, which cannot be created in Python."""
    raise RuntimeError(MESSAGE)


def contents(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints/latest").iterdir())


def test_epoch_is_saved_before_its_validation(tiny_config, tmp_path, monkeypatch):
    train_and_evaluate(tiny_config, tmp_path / "undisturbed", ONE_DEVICE)
    with monkeypatch.context() as patch:
        patch.setattr(train, "evaluate_split", out_of_memory)
        with pytest.raises(BadInput, match=r"^config.eval_batch_size: 8 images at once .* \(RuntimeError: RESOURCE_"):
            train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
    assert (run_of(tmp_path / "w")["status"], contents(tmp_path / "w")) == ("failed", [4])
    tiny_config.eval_batch_size = 7  # a runtime field: the run resumes with it
    train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
    assert [line["train_loss"] for line in metrics_of(tmp_path / "w")] == [
        line["train_loss"] for line in metrics_of(tmp_path / "undisturbed")
    ]


def test_resumed_run_does_not_validate_a_recorded_epoch_again(tiny_config, tmp_path, monkeypatch):
    tiny_config.num_epochs = 1.0
    train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
    validated = []
    evaluate_split = train.evaluate_split

    def spy(program, state, split):
        validated.append(int(state.step))
        return evaluate_split(program, state, split)

    monkeypatch.setattr(train, "evaluate_split", spy)
    tiny_config.num_epochs = 2.0
    train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
    assert validated == [8]


def test_batch_that_does_not_fit_leaves_the_workdir_to_another_run(tiny_config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(programs, "make_train_steps", lambda job: out_of_memory())
        with pytest.raises(BadInput, match=r"^config.batch_size: 16 images at once do not fit into memory"):
            train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
    tiny_config.batch_size = 8
    assert train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)["status"] == "done"
    train_and_evaluate(tiny_config, tmp_path / "alone", ONE_DEVICE)
    assert_same_run(tmp_path / "w", tmp_path / "alone")
    assert "reason" not in run_of(tmp_path / "w")
    assert json.loads((tmp_path / "w" / "config.json").read_text())["batch_size"] == 8


def test_images_that_do_not_fit_are_counted(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "place_split", out_of_memory)
    with pytest.raises(BadInput, match=r"^config.dataset: 118 images \(0 MiB\) do not fit into the memory"):
        train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)


@pytest.mark.parametrize("words", ["Permission denied", "RESOURCE_EXHAUSTED: out of memory", "Too many open files"])
def test_checkpoint_that_may_be_intact_is_not_set_aside(words, tiny_config, tmp_path, monkeypatch):
    train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
    before = contents(tmp_path / "w")

    def fail(*arguments, **keywords):
        raise ValueError(words)

    monkeypatch.setattr(checkpoints.ocp.CheckpointManager, "restore", fail)
    tiny_config.num_epochs = 3.0
    with pytest.raises(BadInput, match=r"^--workdir: .*/latest/8 cannot be read: (permission|too many|out)"):
        train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
    assert contents(tmp_path / "w") == before
    assert not (tmp_path / "w/checkpoints/damaged").exists()


def test_classifier_names_the_flag(tiny_config, tmp_path, tiny_dataset, monkeypatch):
    train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE)
    classifier = load_run(tmp_path / "w", eval_batch_size=5)
    assert len(classifier(tiny_dataset.test.images)) == 27
    classifier._probabilities = out_of_memory
    with pytest.raises(BadInput, match=r"^--eval_batch_size: 5 images at once do not fit into memory; use a smaller"):
        classifier(tiny_dataset.test.images)
    with pytest.raises(BadInput, match=r"^--eval_batch_size: 0 is not valid"):
        load_run(tmp_path / "w", eval_batch_size=0)


def test_out_of_memory_errors_are_recognized():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY"))
    assert not is_out_of_memory(ValueError("RESOURCE_EXHAUSTED in a name"))
    assert not is_out_of_memory(RuntimeError("INVALID_ARGUMENT"))
