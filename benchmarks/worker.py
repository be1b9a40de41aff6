"""The process of one contestant and one network in `benchmarks.speed`.

`python -m benchmarks.worker NAME NETWORK IMAGES.npz SETTINGS`, where SETTINGS is a JSON object with the fields of
`Settings`, reads the commands `train STEPS` and `evaluate` from standard input. It writes one line of JSON to standard
output when it is ready, and one per command.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contestants import Images, Settings, build


def main() -> None:
    name, network, path, fields = sys.argv[1:]
    settings = Settings(**json.loads(fields))
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of the framework goes to stderr

    def reply(**fields: Any) -> None:
        print(json.dumps(fields), file=replies, flush=True)

    with np.load(path) as arrays:
        images = Images(**arrays)
    contestant = build(name, network, images, settings)
    reply(
        num_parameters=contestant.num_parameters,
        compile_seconds=contestant.compile_seconds,
        peak_device_bytes=contestant.peak_device_bytes(),
    )
    for line in sys.stdin:
        command, *arguments = line.split()
        start = time.perf_counter()
        if command == "train":
            contestant.train(int(arguments[0]))
            count = int(arguments[0]) * settings.batch_size
        else:
            contestant.evaluate()
            count = len(images.test_labels)
        seconds = time.perf_counter() - start
        memory = {"peak_memory_mib": peak_memory_mib(), "peak_device_bytes": contestant.peak_device_bytes()}
        reply(images_per_second=count / seconds, **memory)


def peak_memory_mib() -> float:
    """The most memory that was resident at once in this process, on Linux.

    `ru_maxrss` would also count that of the process that started it.
    """
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


if __name__ == "__main__":
    main()
