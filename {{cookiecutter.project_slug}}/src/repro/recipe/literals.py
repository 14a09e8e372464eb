"""Values as text: how a value is read from YAML, and written so that it is read as the same."""

from __future__ import annotations

import datetime
import io
import json
import math
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from repro.basics.errors import BadInput


def read(text: str) -> Any:
    """Reads YAML.

    Raises:
        YAMLError: it is none.
    """
    # The pure-Python reader follows YAML 1.2: 1e-3 is a number, `no` a word, a key twice an error.
    return YAML(typ="safe", pure=True).load(io.StringIO(text))


def listed(text: str) -> list[Any]:
    """Reads `16, 32, [a, b]` as a list of values.

    Raises:
        BadInput: it is not.
    """
    try:
        found = read(f"[{text}]")
    except YAMLError:
        raise BadInput(f"not valid values: {text}; expected such as 16,32,64") from None
    return list(found)


def written(value: Any) -> str:
    """A value as the text that is read as the same value; JSON's keys would all be words.

    Raises:
        BadInput: it is nothing that a parameter can be.
    """
    match value:
        case dict():
            return f"{{{', '.join(f'{written(k)}: {written(v)}' for k, v in value.items())}}}"
        case list():
            return f"[{', '.join(map(written, value))}]"
        case str():
            return "".join(
                one if one.isprintable() else f"\\U{ord(one):08X}"
                for one in json.dumps(value, ensure_ascii=False)
            )
        case float() if not math.isfinite(value):
            return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
        case bool() | int() | float() | None:
            return json.dumps(value)
        case datetime.date():
            return str(value)
    raise BadInput(f"{value!r}: expected a number, a word, a list or a group of them")
