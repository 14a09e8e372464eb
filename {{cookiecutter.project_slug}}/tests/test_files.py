"""Files' digests and their text: what counts, what does not."""

from __future__ import annotations

import pytest

from repro import files

CODE = b'''"""Text of the module."""
import math


def half(x):
    return x / 2  # A comment.


TEXT = """first__

# no comment
last"""
'''.replace(b"__", b"  ")
BARE = b'''"""Text of the module."""
import math
def half(x):
    return x / 2
TEXT = """first__

# no comment
last"""'''.replace(b"__", b"  ")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"  # A comment.", b""),
        (b"# A comment.", b"#another one with 'a quote"),
        (b"\n\n\n", b"\n"),
        (b"import math\n", b"import math  \t\n    \n"),
        (b"x / 2", b"x / 2   "),
        (b"\n", b"\r\n"),
        (b"def", b"# def\ndef"),
        (CODE, BARE),
    ],
)
def test_what_does_not_run_does_not_count(old: bytes, new: bytes) -> None:
    assert old in CODE
    assert files.code_digest(CODE.replace(old, new)) == files.code_digest(CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"x / 2", b"x / 3"),
        (b"x / 2", b"x /  2"),
        (b"    return", b"  return"),
        (b"Text of", b"Words of"),
        (b"first  ", b"first"),
        (b"# no comment", b"# a comment"),
        (b"# no comment\n", b""),
        (b"first  \n\n", b"first  \n"),
    ],
)
def test_what_runs_counts(old: bytes, new: bytes) -> None:
    assert old in CODE
    assert files.code_digest(CODE.replace(old, new)) != files.code_digest(CODE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # A string that looks like a comment, and a comment that looks like a string.
        ('x = "# a"', 'x = "# b"'),
        ("x = 'it\\'s # a'", "x = 'it\\'s # b'"),
        ('x = r"\\"  # "', 'x = r"\\" # "'),
        ("x = f'{y}  # a'", "x = f'{y}  # b'"),
        ("x = f'{{'  # a\ny = '}'", "x = f'{{'  # a\ny = '}}'"),
        # Only from Python 3.12 on: the file is taken as it is.
        ('x = f"{d["a # b"]}"', 'x = f"{d["a # c"]}"'),
        # The statement ends before the second line, or goes on in it.
        ("x = 1 \\\n\n+ 2", "x = 1 \\\n+ 2"),
        # No Python at all.
        ("'a # b", "'a # c"),
        ("x = 1 # \0", "x = 1 # \0\0"),
    ],
)
def test_programs_that_differ_have_other_digests(one: str, other: str) -> None:
    assert files.code_digest(one.encode()) != files.code_digest(other.encode())


def test_a_digest_of_code_is_the_same_on_every_python() -> None:
    # Written down once. The letters outside ASCII and the f-string are where versions of Python
    # place their tokens differently.
    code = 'TEXT = """é\n ∑"""  # ü\nπ = f"{TEXT!r:>{8}} # {{"  # ü\n'
    assert files.code_digest(code.encode()) == DIGEST
    assert files.code_digest(b"\xef\xbb\xbf" + code.encode()) == DIGEST
    assert files.code_digest(b"# coding: latin-1\nx = '\xe9'\n") == files.code_digest(
        "x = 'é'".encode()
    )


DIGEST = "bcb087583bd519178294f09608e4294428ac554d45a7ba56214750e57a96e0da"
