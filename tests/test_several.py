"""Commands on several things, run as processes: two sweeps in one folder, and commands on the runs that they left."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import command, start

pytestmark = pytest.mark.medium

EXPERIMENT = """
from cifar_flax.config import base_config

def get_config():
    config = base_config()
    config.update(experiment="several", model="mlp", num_epochs=2.0, num_validation=16, batch_size=16)
    config.update(eval_batch_size=16, dataset={dataset!r})
    return config.lock()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of two sweeps, given at the same time."""
    return tmp_path_factory.mktemp("several")


@pytest.fixture(scope="module")
def sweeps(folder):
    """The exit code, stdout and stderr of both sweeps."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (96, 8, 8, 3), np.uint8), np.arange(96) % 3
    np.savez(folder / "d.npz", x_train=images[:64], y_train=labels[:64], x_test=images[64:], y_test=labels[64:])
    (folder / "mine.py").write_text(EXPERIMENT.format(dataset=str(folder / "d.npz")))
    arguments = [f"--config={folder / 'mine.py'}", "--seeds=0-2", "--jobs=1", f"--workdir={folder / 'runs'}"]
    sweep = command("sweep", *arguments)
    processes = [start(sweep), start(sweep)]
    results = [process.communicate() for process in processes]
    return [(process.returncode, *result) for process, result in zip(processes, results, strict=True)]


def test_two_sweeps_in_one_folder_share_the_seeds(sweeps):
    assert [(code, err) for code, _, err in sweeps] == [(0, "")] * 2
    tables = [out.splitlines()[-1] for _, out, _ in sweeps]
    assert tables[0] == tables[1]
    assert tables[0].startswith("several, seeds 0 to 2: ")
    started = [workdir for _, out, _ in sweeps for workdir in re.findall(r"--logdir .*/(seed\d)", out)]
    assert sorted(started) == ["seed0", "seed1", "seed2"]  # none was trained twice


def test_predict_and_report_process_the_usable_inputs(sweeps, folder):
    (folder / "photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 40)).save(folder / "photos" / name)
    (folder / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    predict = start(command("predict", f"--workdir={folder / 'runs' / 'seed0'}", folder / "photos"))
    page = folder / "page.html"
    report = start(
        command("report", folder / "runs" / "seed0", folder / "none", folder / "runs/seed1", f"--out={page}")
    )
    out, err = predict.communicate()
    assert predict.returncode == 2
    assert [Path(line.split(":")[0]).name for line in out.splitlines()] == ["a.png", "b.png"]
    assert err.startswith(f"error: {folder / 'photos' / 'broken.jpg'}: not a readable image")
    assert err.count("\n") == 1
    out, err = report.communicate()
    assert (report.returncode, out) == (2, f"report      {page}\n")
    assert err.startswith(f"error: --workdir: there is no run in {folder / 'none'}")
    assert err.count("\n") == 1
    assert "runs/seed1" in page.read_text()
