"""The flags of a process, and what all processes must have in common."""

import argparse

import pytest

from cifar_flax.config import base_config
from cifar_flax.distributed.agreement import describe_program, disagreement
from cifar_flax.distributed.place import add_flags, find_place
from cifar_flax.errors import BadInput

BY_HAND = "--coordinator node0:7777 --num_processes 4 --process_id 3"


def parse(text):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser)
    return find_place(parser.parse_args(text.split()))


def test_place_is_that_of_the_flags():
    place = parse(f"{BY_HAND} --heartbeat 5")
    assert place[:5] == ("node0", 7777, 4, 3, None)
    assert (place.heartbeat, place.join_timeout) == (5, 300)
    assert parse("--coordinator [fe80::1]:7777 --num_processes 1 --process_id 0").host == "fe80::1"


def test_run_without_the_flags_is_a_single_process():
    assert parse("") is None


def test_place_is_that_of_a_slurm_job(monkeypatch):
    job = {"JOB_ID": "4711", "STEP_NODELIST": "node[007-010]", "NTASKS": "4", "PROCID": "2", "LOCALID": "1"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    place = parse("--distributed")
    assert (place.host, place.num_processes, place.process_id, place.local_device_ids) == ("node007", 4, 2, [1])
    assert parse("--distributed --coordinator other:1").port == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--num_processes 2", "--coordinator and --process_id: missing; give --coordinator HOST:PORT"),
        ("--coordinator a:1 --process_id 0", "--num_processes: missing"),
        ("--distributed", "--distributed: this is no SLURM, Open MPI or Kubernetes job; give --coordinator"),
        ("--coordinator node0 --num_processes 1 --process_id 0", "--coordinator: 'node0' is not valid; use HOST:PORT"),
        ("--coordinator :1 --num_processes 1 --process_id 0", "--coordinator: ':1' is not valid"),
        ("--coordinator a:65536 --num_processes 1 --process_id 0", "--coordinator: 'a:65536' is not valid"),
        ("--coordinator a..b:1 --num_processes 1 --process_id 0", "--coordinator: 'a..b:1' is not valid"),
        ("--coordinator a:0 --num_processes 1 --process_id 0", "--coordinator: 'a:0' is not valid"),
        ("--coordinator a:1 --num_processes 0 --process_id 0", "--num_processes: 0 is not valid"),
        (
            "--coordinator a:1 --num_processes 2 --process_id 2",
            "--process_id: 2 is not valid; use an integer from 0 to 1",
        ),
        ("--coordinator a:1 --num_processes 2 --process_id -1", "--process_id: -1 is not valid"),
        (f"{BY_HAND} --heartbeat 0", "--heartbeat: 0.0 is not valid"),
        (f"{BY_HAND} --heartbeat nan", "--heartbeat: nan is not valid"),
        (f"{BY_HAND} --join_timeout inf", "--join_timeout: inf is not valid"),
    ],
)
def test_unusable_flags_are_named(flags, words):
    with pytest.raises(BadInput) as error:
        parse(flags)
    assert words in str(error.value)


def test_damaged_job_is_reported_in_one_line(monkeypatch):
    for name in ("JOB_ID", "STEP_NODELIST", "NTASKS", "PROCID", "LOCALID"):
        monkeypatch.setenv(f"SLURM_{name}", "many")
    with pytest.raises(
        BadInput, match=r"^--distributed: the job cannot be read \(ValueError: .*\); give --coordinator"
    ):
        parse("--distributed")


def described(**changes):
    config = base_config()
    config.update(changes)
    return describe_program(config)


def test_equal_processes_agree_and_each_has_its_own_paths():
    assert (
        disagreement({0: described(), 1: described(data_dir="/elsewhere", dataset="moved.npz", save_seconds=1.0)})
        is None
    )


@pytest.mark.parametrize(
    "name", ["config.batch_size", "version of jax", "version of python", "XLA_FLAGS", "git commit"]
)
def test_difference_is_named_with_both_values(name):
    other = described() | {name: "another"}
    message = disagreement({0: described(), 1: described(), 2: other})
    assert message.startswith(f"{name}: {described()[name]!r} in process 0 and 'another' in process 2")


def test_mistake_in_one_config_is_named_in_all_processes():
    assert "process 1: config.dropout: 2.0 is not valid" in disagreement({0: described(), 1: described(dropout=2.0)})
