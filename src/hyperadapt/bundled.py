"""The configurations that come with the package, known by name: "quickstart", "t5-base/hyperformer++"."""

from __future__ import annotations

import re
from pathlib import Path

from hyperadapt.errors import UserError, nearest

DIRECTORY = Path(__file__).parent / "configs"
COMMANDS = {
    "compare": "compare",
    "pretrain": "pretrain",
}  # folder -> what takes its files; train takes all others


def names() -> list[str]:
    """List the names, those of one folder together."""
    files = sorted(DIRECTORY.rglob("*.yaml"), key=lambda file: (file.parent != DIRECTORY, file))
    return [file.relative_to(DIRECTORY).with_suffix("").as_posix() for file in files]


def file_of(name: str) -> Path:
    """Return the file of a configuration that comes with the package.

    Raises:
        UserError: if none has this name.
    """
    if name not in names():
        raise UserError(f"no configuration '{name}' comes with the package; {nearest(name, names())}")
    return DIRECTORY / f"{name}.yaml"


def place_of(path: Path, folder: Path = Path()) -> Path:
    """Return the file that a path names from a folder; where there is none, the package's own of that name."""
    name = path.as_posix()
    return file_of(name) if not (folder / path).is_file() and name in names() else folder / path


def folder_of_paths(file: Path) -> Path:
    """Return the folder to which the paths in a configuration are relative: its own.

    The working directory is that of the package's own configurations: nobody wants their runs within the package.
    """
    return Path() if DIRECTORY in file.resolve().parents else file.parent


def overview() -> list[dict[str, str]]:
    """List every name, the command that takes it, and the first sentence of what its file says."""
    return [
        {
            "name": name,
            "for": COMMANDS.get(name.partition("/")[0], "train"),
            "what it is": first_sentence(file_of(name).read_text(encoding="utf-8")),
        }
        for name in names()
    ]


def first_sentence(text: str) -> str:
    """Read the first sentence of a file's leading comment."""
    comment = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    # Up to the command that runs it, or to a stop before a capital: not that of "et al. 2021".
    return re.split(r"(?<=[.?])\s+(?=[A-Z])|: hyperadapt ", " ".join(comment))[0]
