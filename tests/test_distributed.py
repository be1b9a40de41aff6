"""One run over several processes of this machine, which exchange data over loopback."""

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from distributed_runs import (
    assert_gone,
    devices,
    finish,
    run_all,
    start_all,
    trainer_of,
    wait_until_saved,
)
from processes import run, start, train_command, write_dataset
from run_records import assert_same_run, metrics_of, run_of

from cifar_flax.distributed.hub import free_port

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="runs over several processes need Unix")

OTHER_VICTIMS = ("process 1", "trainer 0")
LONG = ("--config.num_epochs=2000", "--config.save_seconds=0.2")
AUGMENTED = ("--config.augment=shift_flip", "--config.num_epochs=1.5")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "images.npz")


def files_of(workdir):
    """The files of a workdir but for the events' and the arrays', whose names are random."""
    paths = (path.relative_to(workdir) for path in workdir.rglob("*"))
    return sorted(path for path in paths if "tfevents" not in path.name and "d" not in path.parts)


def codes(results):
    return [code for code, _, _ in results]


@pytest.mark.medium
def test_two_processes_compute_what_one_with_two_devices_does_and_write_its_files(tmp_path, dataset):
    results = run_all(dataset, tmp_path / "two", 2, *AUGMENTED, experiment="cnn")
    assert codes(results) == [0, 0], results
    alone = run(train_command(dataset, tmp_path / "one", *AUGMENTED, experiment="cnn"), variables=devices(2))
    assert alone[0] == 0, alone
    assert_same_run(tmp_path / "two", tmp_path / "one")
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")
    assert not (tmp_path / "two_unused").exists()
    assert results[0][1].count("\n") == alone[1].count("\n")
    assert results[1][1] == ""
    assert results[1][2].splitlines()[-1] == "process 1: done"


@pytest.mark.medium
@pytest.mark.parametrize("others", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_signal_to_any_process_saves_the_run_and_another_number_of_processes_resumes_it(tmp_path, dataset, others):
    workdir, epochs = tmp_path / "run", "--config.num_epochs=40"
    processes = start_all(dataset, workdir, 2, epochs)
    wait_until_saved(workdir, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    results = finish(processes)
    assert codes(results) == [143, 143], results
    assert results[0][2].splitlines()[-1].startswith("interrupted by SIGTERM; the state is saved")
    assert results[1][2].splitlines()[-1].startswith("process 0: interrupted by SIGTERM; the state is saved")
    assert run_of(workdir)["status"] == "interrupted"
    assert codes(run_all(dataset, workdir, others, epochs)) == [0] * others
    assert run(train_command(dataset, tmp_path / "undisturbed", epochs))[0] == 0
    losses = [[line["train_loss"] for line in metrics_of(folder)] for folder in (workdir, tmp_path / "undisturbed")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


@pytest.mark.medium
@pytest.mark.parametrize(
    "victim", ["process 0", "trainer 1", *(pytest.param(v, marks=pytest.mark.slow) for v in OTHER_VICTIMS)]
)
def test_killed_process_ends_all_others_with_one_line(tmp_path, dataset, victim):
    workdir = tmp_path / "run"
    processes = start_all(dataset, workdir, 2, *LONG)
    wait_until_saved(workdir, processes[0])
    trainers = [trainer_of(process) for process in processes]
    kind, number = victim.split()
    pid = processes[int(number)].pid if kind == "process" else trainers[int(number)]
    os.kill(pid, signal.SIGKILL)
    results = finish(processes)
    assert_gone(trainers)
    for process, (code, _, err) in enumerate(results):
        if pid != processes[process].pid:
            assert code == 1, results
            last = err.splitlines()[-1]
            assert last.startswith("failed: process " + number), results
            assert "go on from what is saved" in last
            assert "stack trace" not in err
            assert "Traceback" not in err


def mismatches(other_data):
    return {
        "config": ({}, {1: ["--config.batch_size=8"]}, "config.batch_size: 16 in process 0 and 8 in process 1"),
        "num_processes": ({}, {1: ["--num_processes=3"]}, "--num_processes: 2 in process 0 and 3 in process 1"),
        "devices": ({1: {"JAX_NUM_CPU_DEVICES": "2"}}, {}, "number of devices: 1 in process 0 and 2 in process 1"),
        "data": ({}, {1: [f"--config.dataset={other_data}"]}, "is not the same in process 0 and in process 1"),
        "no data": ({}, {1: ["--config.dataset=/no/such.npz"]}, "config.dataset: /no/such.npz does not exist"),
    }


@pytest.mark.medium
@pytest.mark.parametrize("name", mismatches(None))
def test_processes_that_differ_end_with_one_line_each(tmp_path, dataset, name):
    other = write_dataset(tmp_path / "other.npz", count=99)
    variables, arguments, expected = mismatches(other)[name]
    results = run_all(
        dataset, tmp_path / "run", 2,
        variables=lambda process: variables.get(process, {}), each=lambda process: arguments.get(process, []),
    )  # fmt: skip
    for code, out, err in results:
        assert code == 2, results
        assert out == ""
        lines = [line for line in err.splitlines() if "computing; process 0" not in line]
        assert len(lines) == 1, results
        assert expected in lines[0], results
        assert "error: " in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.medium
def test_process_that_does_not_join_is_named(tmp_path, dataset):
    flags = ["--coordinator", f"127.0.0.1:{free_port()}", "--num_processes=3", "--process_id=0", "--join_timeout=2"]
    code, _, err = run(train_command(dataset, tmp_path / "run", *flags))
    assert code == 1
    assert err == "failed: processes 1, 2 have not joined within 2 s; start all, or set a longer --join_timeout\n"


@pytest.mark.slow
def test_streamed_images_of_two_processes_give_the_bits_of_resident_ones(tmp_path, dataset):
    for name in ("True", "False"):
        assert codes(run_all(dataset, tmp_path / name, 2, *AUGMENTED, f"--config.stream={name}", experiment="cnn")) == [
            0,
            0,
        ]
    assert_same_run(tmp_path / "True", tmp_path / "False")


@pytest.mark.slow
def test_two_processes_of_two_devices_equal_four_of_one(tmp_path, dataset):
    assert codes(run_all(dataset, tmp_path / "2x2", 2, *AUGMENTED, variables=devices(2), experiment="cnn")) == [0] * 2
    assert codes(run_all(dataset, tmp_path / "4x1", 4, *AUGMENTED, variables=devices(1), experiment="cnn")) == [0] * 4
    assert_same_run(tmp_path / "2x2", tmp_path / "4x1")
    assert run(train_command(dataset, tmp_path / "1x4", *AUGMENTED, experiment="cnn"), variables=devices(4))[0] == 0
    losses = [[line["train_loss"] for line in metrics_of(tmp_path / name)] for name in ("2x2", "1x4")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


@pytest.mark.slow
def test_processes_of_a_slurm_job_find_each_other(tmp_path, dataset):
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    processes = [
        start(
            train_command(dataset, tmp_path / "run", "--distributed"),
            variables=job | {"SLURM_PROCID": str(process), "SLURM_LOCALID": str(process)},
        )
        for process in range(2)
    ]
    assert codes(finish(processes)) == [0, 0]
    assert run_of(tmp_path / "run")["num_devices"] == 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mpirun") is None, reason="Open MPI is not installed")
def test_processes_of_open_mpi_find_each_other(tmp_path, dataset):
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2"]
    code, _, err = run([*mpirun, *train_command(dataset, tmp_path / "run", "--distributed")])
    assert code == 0, err
    assert run_of(tmp_path / "run")["num_devices"] == 2


@pytest.fixture
def hosts():
    """Two network namespaces with an address each, as two machines have."""
    if shutil.which("ip") is None or os.geteuid():
        pytest.skip("needs iproute2 and root")
    names = [f"cifar{os.getpid()}h{i}" for i in range(2)]
    ends = [f"c{os.getpid()}e{i}" for i in range(2)]
    commands = [f"netns add {name}" for name in names]
    commands += [f"link add {ends[0]} netns {names[0]} type veth peer name {ends[1]} netns {names[1]}"]
    for i, (name, end) in enumerate(zip(names, ends, strict=True)):
        commands += [f"-n {name} addr add 10.77.0.{i + 1}/24 dev {end}"]
        commands += [f"-n {name} link set {device} up" for device in (end, "lo")]
    try:
        for command in commands:
            if subprocess.run(["ip", *command.split()], capture_output=True).returncode:
                pytest.skip("network namespaces cannot be made here")
        yield names, ends
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("cut", [False, True])
def test_two_hosts_with_disks_of_their_own(tmp_path, dataset, hosts, cut):
    """With `cut`, their connection is interrupted for good, and both end."""
    names, ends = hosts
    workdirs = [tmp_path / "host0" / "run", tmp_path / "host1" / "run"]
    address = ["--coordinator=10.77.0.1:7777", "--num_processes=2", "--heartbeat=5"]
    address += LONG if cut else ()
    commands = [train_command(dataset, workdirs[i], f"--process_id={i}", *address) for i in range(2)]
    processes = [start(["ip", "netns", "exec", name, *command]) for name, command in zip(names, commands, strict=True)]
    if cut:
        wait_until_saved(workdirs[0], processes[0])
        subprocess.run(["ip", "-n", names[1], "link", "set", ends[1], "down"], check=True)
    results = finish(processes)
    assert codes(results) == ([1, 1] if cut else [0, 0]), results
    assert not workdirs[1].parent.exists()
    if cut:
        assert [f"process {1 - i} was lost: it did not answer for 5 s" in results[i][2] for i in range(2)] == [True] * 2
