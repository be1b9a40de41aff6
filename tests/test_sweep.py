"""A sweep over seeds: each seed is a run, and an interrupted sweep resumes."""

import json
import signal
import statistics
from contextlib import ExitStack
from pathlib import Path

import pytest
from run_records import assert_same_run, interrupt_after, metrics_of, run_of

from cifar_flax import sweep as sweep_module
from cifar_flax import train
from cifar_flax.errors import BadInput
from cifar_flax.main import main
from cifar_flax.reporting import formatting
from cifar_flax.sweep import parse_seeds
from cifar_flax.workdir.lock import lock_workdir

ROOT = Path(__file__).parents[1]
TINY = [
    "--config=experiments/cnn.py",
    *(f"--config.{field}" for field in ("model=tiny", "dataset=tiny", "batch_size=16", "eval_batch_size=8")),
    "--config.num_epochs=2",
]


def sweep(arguments):
    """The exit code of a sweep in this process, which alone knows the tiny model."""
    return sweep_module.main(["--jobs=1", *arguments])


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch, tiny_config):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-4", [0, 1, 2, 3, 4]), ("7", [7]), ("5, 0-1,3", [5, 0, 1, 3]), ("0-999", list(range(1000)))]
)
def test_seeds_are_parsed(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "0-", "-1", "1.5", "4-0", "0,,1", "0-4,2", "0-1000", "0-9999999999", "1e3"])
def test_invalid_seeds_are_rejected_in_one_line(text):
    with pytest.raises(BadInput, match=r"^--seeds: .*; give") as error:
        parse_seeds(text)
    assert "\n" not in str(error.value)


@pytest.mark.medium
def test_sweep_trains_the_same_runs_as_main_and_prints_mean_and_deviation(tmp_path, capsys):
    assert sweep([*TINY, "--seeds=0,2", f"--workdir={tmp_path / 'sweep'}"]) == 0
    out = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == ["seed0", "seed2"]
    assert main([*TINY, "--config.seed=2", f"--workdir={tmp_path / 'alone'}"]) == 0
    assert_same_run(tmp_path / "sweep" / "seed2", tmp_path / "alone")
    accuracies = [run_of(tmp_path / "sweep" / name)["test_accuracy"] for name in ("seed0", "seed2")]
    mean, deviation = 100 * statistics.fmean(accuracies), 100 * statistics.stdev(accuracies)
    assert f"test accuracy {mean:.2f} ± {deviation:.2f} %" in out.splitlines()[-1]
    assert "seeds 0, 2" in out.splitlines()[-1]


@pytest.mark.medium
def test_interrupted_sweep_resumes_and_skips_finished_seeds(tmp_path, capsys, monkeypatch):
    command = [*TINY, "--seeds=0-2", f"--workdir={tmp_path}"]
    with monkeypatch.context() as patch:
        patch.setattr(train, "CHUNK_SECONDS", 0.0)  # one step per chunk
        interrupt_after(patch, 12)  # each seed has 8 steps
        assert sweep(command) == 143
    assert "the same command resumes" in capsys.readouterr().err
    assert [json.loads((tmp_path / name / "run.json").read_text())["status"] for name in ("seed0", "seed1")] == [
        "done",
        "interrupted",
    ]
    modified = (tmp_path / "seed0" / "run.json").stat().st_mtime_ns
    assert sweep(command) == 0
    out = capsys.readouterr().out
    assert "resuming after step" in out
    assert (tmp_path / "seed0" / "run.json").stat().st_mtime_ns == modified
    assert [len(metrics_of(tmp_path / f"seed{seed}")) for seed in range(3)] == [2, 2, 2]
    assert sweep(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == out.splitlines()[-1]


@pytest.mark.medium
def test_diverging_seed_does_not_stop_the_others(tmp_path, capsys):
    command = [*TINY, "--config.optimizer=sgd", "--config.learning_rate=1e30", "--seeds=0-1", f"--workdir={tmp_path}"]
    assert sweep(command) == 1
    assert [run_of(tmp_path / name)["status"] for name in ("seed0", "seed1")] == ["diverged", "diverged"]
    err = capsys.readouterr().err
    assert err.startswith("diverged: seeds 0 to 1 of cnn")
    assert err.count("\n") == 1


@pytest.fixture
def trained(monkeypatch):
    """The names of the workdirs that were trained, in this order."""
    names, original = [], train.train

    def record(config, records, *arguments):
        names.append(records.workdir.name)
        original(config, records, *arguments)

    monkeypatch.setattr(train, "train", record)
    return names


@pytest.mark.medium
@pytest.mark.parametrize("other", ["finishes", "fails"])
def test_seed_that_another_process_trains_is_retried_at_the_end(other, tmp_path, capsys, monkeypatch, trained):
    with ExitStack() as held:
        held.enter_context(lock_workdir(tmp_path / "seed1"))

        def end_the_other(seconds):
            held.close()
            if other == "finishes":
                assert main([*TINY, "--config.seed=1", f"--workdir={tmp_path / 'seed1'}"]) == 0

        monkeypatch.setattr(sweep_module, "sleep", end_the_other)
        assert sweep([*TINY, "--seeds=0-2", f"--workdir={tmp_path}"]) == 0
    captured = capsys.readouterr()
    assert trained == ["seed0", "seed2", "seed1"]
    assert captured.out.count(f"waiting for seed 1: another process is training in {tmp_path / 'seed1'}") == 1
    assert "cnn, seeds 0 to 2: " in captured.out.splitlines()[-1]
    assert captured.err == ""


@pytest.mark.medium
def test_signal_in_the_last_phase_of_a_seed_ends_the_sweep_after_it(tmp_path, monkeypatch, trained):
    evaluate_test = train.evaluate_test

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return evaluate_test(*arguments)

    monkeypatch.setattr(train, "evaluate_test", interrupted)
    assert sweep([*TINY, "--seeds=0-1", f"--workdir={tmp_path}"]) == 143
    assert (trained, run_of(tmp_path / "seed0")["status"]) == (["seed0"], "done")
    assert not (tmp_path / "seed1").exists()


@pytest.mark.medium
def test_wait_for_another_process_ends_with_control_c(tmp_path, capsys, monkeypatch):
    def press_control_c(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep_module, "sleep", press_control_c)
    with lock_workdir(tmp_path / "seed0"):
        assert sweep([*TINY, "--seeds=0", f"--workdir={tmp_path}"]) == 130


@pytest.mark.medium
def test_seed_with_an_unusable_workdir_does_not_stop_the_others(tmp_path, capsys, trained):
    (tmp_path / "seed1").mkdir()
    (tmp_path / "seed1" / "config.json").write_text("{")
    assert sweep([*TINY, "--seeds=0-2", f"--workdir={tmp_path}"]) == 2
    captured = capsys.readouterr()
    assert trained == ["seed0", "seed2"]
    assert "cnn, seeds 0, 2: " in captured.out.splitlines()[-1]
    refused, summary = captured.err.splitlines()
    assert refused.startswith(f"error: --workdir: {tmp_path / 'seed1' / 'config.json'} cannot be read")
    assert summary == "error: seed 1 of cnn could not be trained, see above"


@pytest.mark.parametrize("kind", ["config", "folder"])
def test_error_that_all_seeds_have_in_common_is_one_line(kind, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = ["--config.batch_size=0"] if kind == "config" else [f"--workdir={tmp_path / 'file'}"]
    assert sweep([*TINY, "--seeds=0-2", f"--workdir={tmp_path}", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds=0-1"], ["--config"]),
        ([*TINY, "--config.seed=3"], ["--config.seed", "--seeds"]),
        ([*TINY, "--seed=3"], ["--seed", "did you mean '--seeds'"]),
    ],
)
def test_invalid_argument_exits_with_code_2_and_one_line(arguments, words, tmp_path, capsys):
    assert sweep([*arguments, f"--workdir={tmp_path / 'new'}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert all(word in err for word in words), err
    assert not (tmp_path / "new").exists()


def test_single_seed_has_no_deviation():
    assert formatting.mean_std_percent([0.5]) == "50.00 %"
    assert formatting.mean_std_percent([0.5, 0.6]) == "55.00 ± 7.07 %"  # sqrt(0.005), over n - 1
    assert [formatting.describe_seeds(numbers) for numbers in ([3], [0, 1, 2], [0, 2])] == [
        "seed 3",
        "seeds 0 to 2",
        "seeds 0, 2",
    ]
