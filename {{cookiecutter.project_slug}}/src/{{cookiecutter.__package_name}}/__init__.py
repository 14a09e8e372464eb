"""Your project: the data in `data.py`, the models in `models/`."""
