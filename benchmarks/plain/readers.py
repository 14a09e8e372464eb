"""Reads a folder of images in a drawn order, without training: the project's readers, and grain's.

It runs in the folder of a project, in an environment that has grain as well.
"""

import json
import time

import grain.python as grain
import numpy as np

from repro import Dataset, ImageFolder
from repro.data.feed import Feed
from repro.run.steps import chunks

BATCH = 32


class InOrder:
    def __init__(self, images, order):
        self.images, self.order = images, order

    def __len__(self):
        return len(self.order)

    def __getitem__(self, place):
        return self.images[int(self.order[place])]


def ours(part, order, readers):
    for chunk in Feed(part, readers).chunks(chunks(order, BATCH, 20)):
        for number in range(chunk.steps):
            yield chunk.batch(number)["x"]


def others(images, order, threads, workers):
    batches = grain.MapDataset.source(InOrder(images, order)).batch(BATCH)
    made = batches.to_iter_dataset(grain.ReadOptions(threads, 4 * threads))
    if workers:
        made = made.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    yield from made


def main():
    images = ImageFolder("drawn")
    part = Dataset(images, images.labels).whole
    order = np.random.default_rng(3).permutation(len(images)).astype(np.int32)
    programs = {
        "readers 0": lambda: ours(part, order, 0),
        "readers 1": lambda: ours(part, order, 1),
        "readers 2": lambda: ours(part, order, 2),
        "readers 4": lambda: ours(part, order, 4),
        "grain, 1 thread": lambda: others(images, order, 1, 0),
        "grain, 2 threads": lambda: others(images, order, 2, 0),
        "grain, 16 threads": lambda: others(images, order, 16, 0),
        "grain, 2 processes": lambda: others(images, order, 1, 2),
    }
    found = {name: [] for name in programs}
    for turn in range(3):
        names = list(programs)
        for name in names[turn:] + names[:turn]:
            begun, read = time.perf_counter(), 0
            for batch in programs[name]():
                read += len(batch)
            assert read == len(images)
            found[name].append(read / (time.perf_counter() - begun))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
