"""The choices that modules without pydantic know as well: what watches a script has none."""

from typing import Literal

Backend = Literal["tensorflow", "jax", "torch"]
Guarantee = Literal["portable", "machine", "none"]
