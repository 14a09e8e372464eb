"""What a person would write instead of the project: programs that `benchmarks.speed` compares with.

Each is run as `python PROGRAM MODEL EPOCHS [OPTION …]` with the variable MNIST naming mnist.npz,
trains on its 60,000 images, validates on 5,000 after each epoch and tests on the other 5,000 at the
end, and prints one line of JSON: `seconds` of the training alone, and `accuracy` of all 10,000.
"""
