"""A run that test_evaluation_runner.py kills: the real runner and store, pictures of one colour.

python evaluation_process.py FOLDER COUNT
"""

import sys
from pathlib import Path

import numpy as np
from mixlora.evaluation.jobs import ElementSet, Job, Method, Sampling
from mixlora.evaluation.painting import Painted, png
from mixlora.evaluation.runner import missing, open_results, paint

SAMPLING = Sampling(30, 3.0, "euler", "normal", 64, 64)


def jobs(count):
    """So many jobs that differ in their noise."""
    chosen = ElementSet("tower + snow", "north", ("tower", "snow"))
    merge = Method("merge", {"mode": "sum", "total": 1.0, "limit": 0.0})
    return [Job("merge", merge, chosen, "a hill", "", seed, SAMPLING, ("0" * 64,)) for seed in range(count)]


def picture(job):
    """A picture that tells its job."""
    return np.full((64, 64, 3), job.seed % 256, np.uint8)


def source(jobs, stop):
    """Paints as `painting.here` does."""
    for job in jobs:
        if stop():
            return
        yield Painted(job, png(picture(job)), 0.5)


def run(folder, count, stop=lambda: False, say=print):
    """Paints what is missing."""
    with open_results(folder) as store:
        return paint(store, missing(store, jobs(count)), source, stop, say)


if __name__ == "__main__":
    print("begun", flush=True)
    run(Path(sys.argv[1]), int(sys.argv[2]))
    print("done", flush=True)
