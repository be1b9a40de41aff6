"""Seeds in one program: `sweep --together`."""

import json
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run_records import interrupt_after, run_of

from cifar_flax import train
from cifar_flax.main import main
from cifar_flax.sweep import main as sweep
from cifar_flax.sweeping.meeting import Meeting
from cifar_flax.sweeping.together import train_many
from cifar_flax.training.job import init_state, make_job, resolve_config, zero_metrics
from cifar_flax.training.steps import epoch_order, train_steps

ROOT = Path(__file__).parents[1]
TINY = [
    "--config=experiments/cnn.py",
    *(f"--config.{field}" for field in ("model=tiny", "dataset=tiny", "batch_size=16", "eval_batch_size=8")),
    "--config.optimizer=sgd",  # Adam magnifies differences of rounding
    "--config.learning_rate=0.05",
]


def in_threads(meeting, *functions):
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


def test_threads_meet_and_those_that_pause_go_first():
    happened = []
    meeting = Meeting(3, lambda parts: happened.append(sorted(parts)))

    def leave():
        with meeting.turn():
            happened.append("leave")

    def meet(name, pauses):
        with meeting.turn():
            for _ in range(pauses):
                meeting.pause()
                happened.append(f"{name} after a pause")
            meeting.meet(name)
            meeting.meet(name)

    in_threads(meeting, leave, lambda: meet("a", 0), lambda: meet("b", 2))
    assert happened[happened.index("b after a pause") :] == ["b after a pause"] * 2 + [["a", "b"]] * 2
    assert happened.count("leave") == 1


def test_one_thread_runs_at_a_time():
    running = []

    def run():
        with meeting.turn():
            for _ in range(20):
                running.append(None)
                assert len(running) == 1
                running.pop()
                meeting.meet(threading.get_ident())

    meeting = Meeting(4, lambda parts: None)
    in_threads(meeting, *[run] * 4)


@pytest.fixture
def states(tiny_config, tiny_dataset):
    tiny_config.update(optimizer="sgd", learning_rate=0.05)  # Adam magnifies differences of rounding
    config = resolve_config(tiny_config, jax.devices()[:1])
    job = make_job(config, len(tiny_dataset.train), 3, jax.devices()[:1])
    return job, [init_state(job, jax.random.key(seed), tiny_dataset.train.images) for seed in range(3)]


@pytest.mark.medium
def test_mapped_steps_are_those_of_each_seed_and_a_diverged_one_does_not_disturb_the_others(states, tiny_dataset):
    job, (first, bad, last) = states
    images, labels = jnp.asarray(tiny_dataset.train.images), jnp.asarray(tiny_dataset.train.labels)
    params = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].set(jnp.nan), bad.params)
    steps = jax.jit(lambda *arguments: train_steps(job, *arguments))
    orders = [epoch_order(state.rng, 0, len(labels)) for state in (first, bad, last)]
    last, metrics, _ = steps(last, zero_metrics(job), orders[2], images, labels, np.int32(1))  # ahead of the others
    bad = bad.replace(params=params)
    seeds = list(zip([first, bad, last], [zero_metrics(job), zero_metrics(job), metrics], orders, strict=True))
    stops = np.array([3, 3, 4], np.int32)
    many = jax.jit(lambda *arguments: train_many(job, *arguments))(*zip(*seeds, strict=True), images, labels, stops)
    assert [bool(diverged) for _, _, diverged in many] == [False, True, False]
    assert [int(state.step) for state, _, _ in many] == [3, 0, 4]
    for index in (0, 2):
        alone, metrics, _ = steps(*seeds[index], images, labels, stops[index])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), alone.params, many[index][0].params)
        assert int(many[index][1].num_images) == int(metrics.num_images)


def line_of(workdir, epoch):
    return json.loads((workdir / "metrics.jsonl").read_text().splitlines()[epoch - 1])


@pytest.mark.medium
def test_seeds_at_different_steps_end_as_if_they_had_been_alone(tmp_path, tiny_config, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    command, folder = [*TINY, "--config.num_epochs=2"], f"--workdir={tmp_path}"
    with monkeypatch.context() as patch:
        patch.setattr(train, "CHUNK_SECONDS", 0.0)
        interrupt_after(patch, 6)
        assert sweep([*command, "--seeds=0", folder]) == 143
    assert sweep([*command, "--seeds=0-1", folder, "--together"]) == 0
    captured = capsys.readouterr()
    assert "cnn, seeds 0 to 1: " in captured.out.splitlines()[-1]
    assert main([*command, f"--workdir={tmp_path / 'alone'}"]) == 0
    for field in ("train_loss", "validation_loss", "train_accuracy", "step"):
        together, alone = (line_of(tmp_path / name, 2)[field] for name in ("seed0", "alone"))
        assert together == pytest.approx(alone, abs=1e-4)


@pytest.mark.slow
def test_signal_interrupts_all_seeds_and_the_same_command_goes_on(tmp_path, tiny_config, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    command = [*TINY, "--config.num_epochs=2", "--seeds=0-2", f"--workdir={tmp_path}", "--together"]
    with monkeypatch.context() as patch:
        patch.setattr(train, "CHUNK_SECONDS", 0.0)
        patch.setattr("cifar_flax.sweeping.at_once.POLL_SECONDS", 0.01)  # the seeds would end before a later look
        interrupt_after(patch, 7)
        assert sweep(command) == 143
    assert [run_of(tmp_path / f"seed{seed}")["status"] for seed in range(3)] == ["interrupted"] * 3
    assert sweep(command) == 0
    assert "cnn, seeds 0 to 2: " in capsys.readouterr().out.splitlines()[-1]
