"""Several seeds of one experiment: each a run of its own, together a mean, and all of it resumable."""

import json
import statistics
from pathlib import Path

import pytest
from run_records import assert_same_run, interrupt_after, metrics_of, run_of

from cifar_flax import train
from cifar_flax.errors import BadInput
from cifar_flax.main import main
from cifar_flax.reporting import formatting
from cifar_flax.sweep import main as sweep
from cifar_flax.sweep import seeds_of

ROOT = Path(__file__).parents[1]
TINY = [
    "--config=experiments/cnn.py",
    *(f"--config.{field}" for field in ("model=tiny", "dataset=tiny", "batch_size=16", "eval_batch_size=8")),
    "--config.num_epochs=2",
]


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch, tiny_config):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-4", [0, 1, 2, 3, 4]), ("7", [7]), ("5, 0-1,3", [5, 0, 1, 3]), ("0-999", list(range(1000)))]
)
def test_seeds_are_read_as_people_write_them(text, seeds):
    assert seeds_of(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "0-", "-1", "1.5", "4-0", "0,,1", "0-4,2", "0-1000", "0-9999999999", "1e3"])
def test_other_seeds_are_refused_in_one_line(text):
    with pytest.raises(BadInput, match=r"^--seeds: .*; give") as mistake:
        seeds_of(text)
    assert "\n" not in str(mistake.value)


def test_a_sweep_trains_what_main_trains_and_says_mean_and_deviation(tmp_path, capsys):
    assert sweep([*TINY, "--seeds=0,2", f"--workdir={tmp_path / 'sweep'}"]) == 0
    out = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == ["seed0", "seed2"]
    assert main([*TINY, "--config.seed=2", f"--workdir={tmp_path / 'alone'}"]) == 0
    assert_same_run(tmp_path / "sweep" / "seed2", tmp_path / "alone")
    found = [run_of(tmp_path / "sweep" / name)["test_accuracy"] for name in ("seed0", "seed2")]
    mean, deviation = 100 * statistics.fmean(found), 100 * statistics.stdev(found)
    assert f"test accuracy {mean:.2f} ± {deviation:.2f} %" in out.splitlines()[-1]
    assert "seeds 0, 2" in out.splitlines()[-1]


def test_a_sweep_goes_on_where_it_was_interrupted_and_skips_what_is_done(tmp_path, capsys, monkeypatch):
    command = [*TINY, "--seeds=0-2", f"--workdir={tmp_path}"]
    with monkeypatch.context() as patch:
        patch.setattr(train, "PIECE_SECONDS", 0.0)  # every step is a piece
        interrupt_after(patch, 12)  # of 8 steps a seed
        assert sweep(command) == 143
    assert "the same command goes on" in capsys.readouterr().err
    assert [json.loads((tmp_path / name / "run.json").read_text())["status"] for name in ("seed0", "seed1")] == [
        "done",
        "interrupted",
    ]
    written = (tmp_path / "seed0" / "run.json").stat().st_mtime_ns
    assert sweep(command) == 0
    out = capsys.readouterr().out
    assert "going on after step" in out
    assert (tmp_path / "seed0" / "run.json").stat().st_mtime_ns == written
    assert [len(metrics_of(tmp_path / f"seed{seed}")) for seed in range(3)] == [2, 2, 2]
    assert sweep(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == out.splitlines()[-1]


def test_a_seed_that_diverges_does_not_keep_the_others_from_training(tmp_path, capsys):
    command = [*TINY, "--config.optimizer=sgd", "--config.learning_rate=1e30", "--seeds=0-1", f"--workdir={tmp_path}"]
    assert sweep(command) == 1
    assert [run_of(tmp_path / name)["status"] for name in ("seed0", "seed1")] == ["diverged", "diverged"]
    err = capsys.readouterr().err
    assert err.startswith("diverged: seeds 0 to 1 of cnn")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds=0-1"], ["--config"]),
        ([*TINY, "--config.seed=3"], ["--config.seed", "--seeds"]),
        ([*TINY, "--seed=3"], ["--seed", "did you mean '--seeds'"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, words, tmp_path, capsys):
    assert sweep([*arguments, f"--workdir={tmp_path / 'new'}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert all(word in err for word in words), err
    assert not (tmp_path / "new").exists()


def test_one_seed_has_no_deviation():
    assert formatting.percent([0.5]) == "50.00 %"
    assert formatting.percent([0.5, 0.6]) == "55.00 ± 7.07 %"  # sqrt(0.005), over n - 1
    assert [formatting.seeds(numbers) for numbers in ([3], [0, 1, 2], [0, 2])] == [
        "seed 3",
        "seeds 0 to 2",
        "seeds 0, 2",
    ]
