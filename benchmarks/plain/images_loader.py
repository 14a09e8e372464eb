"""A folder of images with PyTorch's `DataLoader`, which has two workers, and Keras's `fit`."""

import json
import os
import sys
import time
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import numpy as np
import torch
from images_model import build
from PIL import Image


class Images(torch.utils.data.Dataset):
    def __init__(self, paths, names):
        self.paths, self.names = paths, names

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, place):
        path = self.paths[place]
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB")), self.names.index(path.parent.name)


def main(folder, epochs):
    paths = sorted(Path(folder).glob("*/*.jpg"))
    names = sorted({path.parent.name for path in paths})
    order = np.random.default_rng(1).permutation(len(paths))
    cut = len(paths) // 10

    def loader(places, shuffle):
        chosen = Images([paths[place] for place in places], names)
        return torch.utils.data.DataLoader(chosen, 32, shuffle, num_workers=2)

    model = build((128, 128, 3), 4)
    begun = time.perf_counter()
    train, held = loader(order[cut:], True), loader(order[:cut], False)
    model.fit(train, epochs=int(epochs), validation_data=held, verbose=0)
    print(json.dumps({"seconds": time.perf_counter() - begun}))


if __name__ == "__main__":
    main(*sys.argv[1:])
