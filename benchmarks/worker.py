"""One contestant with one network, in a process of its own that answers the driver line by line.

`python -m benchmarks.worker NAME NETWORK IMAGES.npz BATCH_SIZE`; on its standard input `train STEPS` and `evaluate`,
on its standard output a JSON object for each, the first when it is ready.
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
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a framework prints goes elsewhere

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    with np.load(path) as arrays:
        images = Images(**arrays)
    contestant = build(name, network, images, int(batch_size))
    answer(num_parameters=contestant.num_parameters, compile_seconds=contestant.compile_seconds)
    for line in sys.stdin:
        command, *arguments = line.split()
        began = time.perf_counter()
        if command == "train":
            contestant.train(int(arguments[0]))
            count = int(arguments[0]) * int(batch_size)
        else:
            contestant.evaluate()
            count = len(images.test_labels)
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
        answer(images_per_second=count / seconds, peak_memory_mib=peak)


if __name__ == "__main__":
    main()
