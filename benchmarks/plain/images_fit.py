"""A folder of images with Keras's `image_dataset_from_directory`, which reads ahead, and `fit`."""

import json
import sys
import time

import keras
import tensorflow as tf
from images_model import build


def main(folder, epochs):
    def part(name):
        found = keras.utils.image_dataset_from_directory(
            folder,
            validation_split=0.1,
            subset=name,
            seed=1,
            batch_size=32,
            image_size=(128, 128),
        )
        return found.prefetch(tf.data.AUTOTUNE)

    train, held = part("training"), part("validation")
    model = build((128, 128, 3), 4)
    begun = time.perf_counter()
    model.fit(train, epochs=int(epochs), validation_data=held, verbose=0)
    print(json.dumps({"seconds": time.perf_counter() - begun}))


if __name__ == "__main__":
    main(*sys.argv[1:])
