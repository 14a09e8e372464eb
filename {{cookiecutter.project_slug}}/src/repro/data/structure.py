"""Structures of arrays, as Keras takes them, under flat names: `x`, `x/age`, `x/0`.

A structure is an array, or a dict, a tuple or a list of structures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Structure = Any
"""An array, or a dict, tuple or list of structures."""


def flat(name: str, structure: Structure) -> dict[str, Any]:
    """The arrays of a structure, or what stands in their place, by their flat names.

    Those of a dict come in the order of their keys, so that the order in which a dict was filled
    does not matter.

    None has no arrays.

    Raises:
        ValueError: a key of a dict is no word, or two arrays have one name.
    """
    found: dict[str, Any] = {}
    if structure is None:
        return found
    for path, leaf in _leaves(name, structure):
        if path in found:
            raise ValueError(f"{path}: two arrays have this name")
        found[path] = leaf
    return found


def like(structure: Structure, make: Callable[[str, Any], Any], name: str) -> Structure:
    """The same structure with something else in each place: `make(flat name, what was there)`."""
    if structure is None:
        return None
    if isinstance(structure, dict):
        return {key: like(one, make, f"{name}/{key}") for key, one in structure.items()}
    if _is_sequence(structure):
        made = (like(one, make, f"{name}/{place}") for place, one in enumerate(structure))
        return list(made) if isinstance(structure, list) else tuple(made)
    return make(name, structure)


def packed(name: str, structure: Structure, arrays: Mapping[str, Any]) -> Structure:
    """The structure whose arrays have these flat names."""
    return like(structure, lambda path, _: arrays[path], name)


def _leaves(name: str, structure: Structure) -> Iterator[tuple[str, Any]]:
    if isinstance(structure, dict):
        for key in structure:
            if not isinstance(key, str) or not key.isprintable() or not key or "/" in key:
                raise ValueError(f"{name}: expected words as keys, without a slash, got {key!r}")
        for key in sorted(structure):
            yield from _leaves(f"{name}/{key}", structure[key])
    elif _is_sequence(structure):
        if not structure:
            raise ValueError(f"{name}: expected arrays, got an empty {type(structure).__name__}")
        for place, one in enumerate(structure):
            yield from _leaves(f"{name}/{place}", one)
    else:
        yield name, structure


def _is_sequence(structure: Structure) -> bool:
    """A tuple or a list; a named tuple is one of its own kind, which nothing else can make."""
    return isinstance(structure, tuple | list) and not hasattr(structure, "_fields")
