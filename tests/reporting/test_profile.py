"""`--profile`: what it writes, that it does not change the training, and how it can fail."""

import gzip
import json
import signal
from types import SimpleNamespace

import jax
import pytest
from run_records import ONE_DEVICE, assert_same_run, run_of

from cifar_flax.errors import BadInput, Interrupted, Unwritable
from cifar_flax.reporting import profile
from cifar_flax.train import train_and_evaluate

# of jaxlib on Python 3.13, for the types of an event's and a plane's properties
pytestmark = pytest.mark.filterwarnings("ignore:builtin type .* has no __module__:DeprecationWarning")


@pytest.fixture(autouse=True)
def _all_operations(monkeypatch):
    """Lets the table list all operations, because the slowest ones of a tiny network change from run to run."""
    monkeypatch.setattr(profile, "NUM_OPERATIONS", 10_000)


def assert_profiled(folder):
    """Asserts that a profile for each viewer exists, and that the table names layers of the tiny network."""
    table = (folder / "operations.txt").read_text()
    assert "transpose(jvp(Tiny))/" in table
    assert "/output/dot_general" in table
    with gzip.open(folder / "perfetto_trace.json.gz") as file:
        assert len(json.load(file)["traceEvents"]) > 100
    assert list(folder.glob("plugins/profile/*/*.xplane.pb"))
    assert len(list(folder.glob("plugins/profile/*/*.trace.json.gz"))) >= 1


@pytest.mark.medium
def test_profiled_run_gives_the_same_results(tiny_config, tmp_path, capsys):
    train_and_evaluate(tiny_config, tmp_path / "plain", ONE_DEVICE)
    assert not (tmp_path / "plain" / "profile").exists()
    capsys.readouterr()
    train_and_evaluate(tiny_config, tmp_path / "profiled", ONE_DEVICE, profile=True)
    assert_same_run(tmp_path / "profiled", tmp_path / "plain")
    folder = tmp_path / "profiled" / "profile"
    assert_profiled(folder)
    out, err = capsys.readouterr()
    assert f"profile     4 steps, in {folder}; " in out
    assert f"; xprof --logdir {folder}\n" in out
    assert not err


@pytest.mark.medium
def test_run_of_one_step_on_several_devices_is_profiled(tiny_config, tmp_path, capsys):
    tiny_config.num_epochs = 0.25
    train_and_evaluate(tiny_config, tmp_path, jax.devices()[:4], profile=True)
    assert_profiled(tmp_path / "profile")
    assert "profile     1 step," in capsys.readouterr().out


@pytest.mark.medium
def test_run_interrupted_while_it_is_profiled_is_saved_and_can_be_profiled_again(tiny_config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        start_trace = jax.profiler.start_trace

        def start_and_interrupt(*arguments, **keywords):
            start_trace(*arguments, **keywords)
            signal.raise_signal(signal.SIGINT)

        patch.setattr(jax.profiler, "start_trace", start_and_interrupt)
        with pytest.raises(Interrupted):
            train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE, profile=True)
    assert run_of(tmp_path / "w")["checkpoint_step"] > 0
    train_and_evaluate(tiny_config, tmp_path / "w", ONE_DEVICE, profile=True)
    assert_profiled(tmp_path / "w" / "profile")
    train_and_evaluate(tiny_config, tmp_path / "plain", ONE_DEVICE)
    assert_same_run(tmp_path / "w", tmp_path / "plain")


@pytest.mark.medium
def test_run_with_nothing_to_train_says_that_it_is_not_profiled(tiny_config, tmp_path, monkeypatch, capsys):
    tiny_config.num_epochs = 0.25
    with monkeypatch.context() as patch:
        patch.setattr("cifar_flax.train.finish_epoch", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE)
    for words in ("all steps are trained already", "nothing is trained"):
        train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE, profile=True)
        err = capsys.readouterr().err
        assert err.startswith(f"--profile: {words}, so nothing is profiled")
        assert err.count("\n") == 1
    assert not (tmp_path / "profile").exists()


@pytest.mark.medium
def test_profile_that_cannot_be_written_is_reported_with_its_path(tiny_config, tmp_path):
    (tmp_path / "profile").write_text("")
    with pytest.raises(Unwritable, match=rf"^{tmp_path}/profile.* cannot be written \(.*"):
        train_and_evaluate(tiny_config, tmp_path, ONE_DEVICE, profile=True)
    assert run_of(tmp_path)["status"] == "failed"


def test_disk_that_is_full_after_the_trace_is_not_taken_for_lack_of_memory(tmp_path, monkeypatch):
    stop_trace = jax.profiler.stop_trace

    def stop_and_fail():
        stop_trace()
        raise RuntimeError("RESOURCE_EXHAUSTED: x.trace.json.gz; No space left on device")

    monkeypatch.setattr(jax.profiler, "stop_trace", stop_and_fail)
    with pytest.raises(OSError, match="No space left"), profile._copy_fits(), profile._recorded(tmp_path):
        pass


def test_copy_that_does_not_fit_into_memory_is_reported():
    with pytest.raises(BadInput, match=r"^--profile: .* leave out --profile"), profile._copy_fits():
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")


def test_profile_within_another_profile_is_refused(tmp_path):
    with (
        jax.profiler.trace(tmp_path / "other"),
        pytest.raises(BadInput, match=r"^--profile: .*already been started"),
        profile._recorded(tmp_path / "profile"),
    ):
        pass


def event(name, start, end, **stats):
    return SimpleNamespace(start_ns=start, end_ns=end, stats=list({"hlo_op": name, **stats}.items()))


def test_time_of_an_operation_is_without_the_operations_within_it():
    """`while` encloses `dot` twice and `cond`, which encloses `add`; other threads and other events do not count."""
    no_operation = SimpleNamespace(start_ns=0, end_ns=999, stats=[("bytes", 3)])
    first = [event("add", 61, 64), event("dot", 10, 30), event("while", 0, 100), event("dot", 30, 50)]
    first += [event("cond", 60, 70), no_operation]
    lines = [SimpleNamespace(events=first), SimpleNamespace(events=[event("dot", 5, 8)])]
    durations, calls = profile.time_of_operations(SimpleNamespace(planes=[SimpleNamespace(lines=lines)]))
    assert durations == {"while": 50, "dot": 43, "cond": 7, "add": 3}
    assert calls == {"while": 1, "dot": 3, "cond": 1, "add": 1}
