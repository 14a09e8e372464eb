"""Plain PyTorch: the usual loop, batches taken from tensors in memory, one thread a core."""

import json
import os
import sys
import time

import numpy as np
import torch
from torch import nn

BATCH = {"dense": 16, "lenet5": 32}


def build(name):
    if name == "dense":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 784), nn.ReLU(), nn.Linear(784, 10))
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def right(model, x, y, size):
    model.eval()
    with torch.no_grad():
        batches = zip(x.split(size), y.split(size), strict=True)
        return sum(int((model(a).argmax(1) == b).sum()) for a, b in batches) / len(y)


def main(name, epochs, *options):
    if "seeded" in options:
        torch.manual_seed(1234)
        torch.use_deterministic_algorithms(True)
    with np.load(os.environ["MNIST"]) as file:
        data = {key: file[key] for key in file.files}
    images = (data[key][:, None].astype("float32") / 255 for key in ("x_train", "x_test"))
    x, x_held = map(torch.from_numpy, images)
    y, y_held = (torch.from_numpy(data[key].astype("int64")) for key in ("y_train", "y_test"))
    size, begun = BATCH[name], time.perf_counter()
    model = build(name)
    optimizer, loss = torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss()
    for _ in range(int(epochs)):
        model.train()
        for rows in torch.randperm(len(x)).split(size):
            optimizer.zero_grad()
            loss(model(x[rows]), y[rows]).backward()
            optimizer.step()
        validated = right(model, x_held[:5000], y_held[:5000], size)
    seconds = time.perf_counter() - begun
    accuracy = right(model, x_held[5000:], y_held[5000:], size)
    print(json.dumps({"seconds": seconds, "accuracy": (validated + accuracy) / 2}))


main(*sys.argv[1:])
