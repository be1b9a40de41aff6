"""Early stopping (`config.patience`)."""

import pytest
from ml_collections import ConfigDict
from run_records import ONE_DEVICE, assert_same_run, interrupt_after, metrics_of, run_of

from cifar_flax import train, tune
from cifar_flax.errors import BadInput, Interrupted
from cifar_flax.training.checks import check_config
from cifar_flax.workdir.epochs import stops_early

pytestmark = pytest.mark.medium
LOSSES = {1: 1.5, 2: 1.0, 3: 1.25, 4: 1.0, 5: 0.5}  # by epoch; that of epoch 4 is equal to the best, not lower


@pytest.fixture
def config(tiny_config, monkeypatch):
    """A run of five epochs with these validation losses."""
    evaluate_split = train.evaluate_split

    def evaluate(program, state, split):
        return evaluate_split(program, state, split)._replace(loss=LOSSES[int(state.step) // 4])

    monkeypatch.setattr(train, "evaluate_split", evaluate)
    monkeypatch.setattr(train, "CHUNK_SECONDS", 0)
    tiny_config.update(num_epochs=5.0, patience=2)
    return tiny_config


def test_run_ends_without_a_lower_validation_loss_and_says_so(config, tmp_path, capsys):
    record = train.train_and_evaluate(config, tmp_path, ONE_DEVICE)
    assert [line["epoch"] for line in metrics_of(tmp_path)] == [1, 2, 3, 4]
    assert (record["status"], record["best_epoch"], record["stopped_early"]) == ("done", 2, True)
    assert "stopped early" in capsys.readouterr().out
    train.train_and_evaluate(config, tmp_path, ONE_DEVICE)
    assert "nothing is trained again" in capsys.readouterr().out


def test_interrupted_run_ends_after_the_same_epoch(config, tmp_path, monkeypatch):
    train.train_and_evaluate(config, tmp_path / "uninterrupted", ONE_DEVICE)
    for steps in (10, 4):  # in epochs 3 and 4
        with monkeypatch.context() as patch:
            interrupt_after(patch, steps)
            with pytest.raises(Interrupted):
                train.train_and_evaluate(config, tmp_path / "resumed", ONE_DEVICE)
    train.train_and_evaluate(config, tmp_path / "resumed", ONE_DEVICE)
    assert_same_run(tmp_path / "resumed", tmp_path / "uninterrupted")


def test_run_that_improves_in_time_is_not_stopped(config, tmp_path):
    config.patience = 3
    assert train.train_and_evaluate(config, tmp_path, ONE_DEVICE)["stopped_early"] is False
    assert run_of(tmp_path)["best_epoch"] == 5


@pytest.mark.parametrize(("patience", "stops"), [(0, False), (1, True), (3, True), (4, False), (9, False)])
def test_patience_counts_epochs_after_the_best(patience, stops):
    losses = [3.0, 1.0, 2.0, 1.0, 2.0]
    assert stops_early([{"epoch": i, "validation_loss": loss} for i, loss in enumerate(losses, 1)], patience) == stops


def test_patience_needs_validation_images_and_no_search(config):
    with pytest.raises(BadInput, match=r"config\.patience: -1 is not valid; use an integer >= 0"):
        check_config(ConfigDict(config.to_dict() | {"patience": -1}))
    config.num_validation = 0
    with pytest.raises(BadInput, match=r"config\.patience: 2 is not valid; use 0 without validation images"):
        check_config(config)
    with pytest.raises(BadInput, match=r"config\.patience: 3 is not valid; use 0, because the search"):
        tune.parse(["--config=cnn:smoke", "--space=cnn_space", "--config.patience=3"])
