"""Removes empty folders and makes the first git commit. Whatever happens, the project stays."""

import contextlib
import json
import os
import subprocess

[WANTED] = json.loads(r"""[{{ cookiecutter.__git_init | tojson }}]""")
# git itself sets these while it runs a hook, and they would lead into another repository.
ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}


def git(*words: str) -> bool:
    return not subprocess.run(("git", *words), env=ENVIRONMENT, capture_output=True).returncode


def commit(*options: str) -> bool:
    words = ("commit", "--quiet", "--no-verify", "--no-gpg-sign", "--message", "Generate project")
    return git("-c", "user.useConfigOnly=true", *options, *words)


# Folders whose files all have a condition in their name that may not hold.
for folder in (".github/workflows", ".github", "notebooks"):
    with contextlib.suppress(OSError):  # It is not there, or not empty.
        os.rmdir(folder)

if WANTED == "yes" and not os.path.exists(".git"):
    try:
        if not (git("init", "--quiet", "--initial-branch=main") and git("add", "--all")):
            print("git could not start a repository here; there is no first commit.")
        elif not commit() and commit("-c", "user.name=repro-dl", "-c", "user.email="):
            print("git knows no user.name and user.email; the first commit is by repro-dl.")
    except OSError:
        print("git is not installed; there is no first commit.")
