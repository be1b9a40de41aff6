"""The process of one contestant and one network in `benchmarks.speed`.

`python -m benchmarks.worker NAME NETWORK IMAGES.npz BATCH_SIZE` reads the commands `train STEPS` and `evaluate` from
standard input. It writes one line of JSON to standard output when it is ready, and one per command.
"""

import json
import os
import resource
import sys
import time
from typing import Any

import numpy as np

from benchmarks.contestants import Images, build


def main() -> None:
    name, network, path, batch_size = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of the framework goes to stderr

    def reply(**fields: Any) -> None:
        print(json.dumps(fields), file=replies, flush=True)

    with np.load(path) as arrays:
        images = Images(**arrays)
    contestant = build(name, network, images, int(batch_size))
    reply(num_parameters=contestant.num_parameters, compile_seconds=contestant.compile_seconds)
    for line in sys.stdin:
        command, *arguments = line.split()
        start = time.perf_counter()
        if command == "train":
            contestant.train(int(arguments[0]))
            count = int(arguments[0]) * int(batch_size)
        else:
            contestant.evaluate()
            count = len(images.test_labels)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
        reply(images_per_second=count / seconds, peak_memory_mib=peak)


if __name__ == "__main__":
    main()
