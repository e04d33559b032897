"""Files of fields that extend others, and overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperadapt import bundled
from hyperadapt.config.sections import named
from hyperadapt.errors import UserError, nearest, shortened
from hyperadapt.files.paths import placed
from hyperadapt.files.yaml_and_json import parse_yaml, read_yaml
from hyperadapt.tasks.sources import SUFFIXES, suffix_of


def read_fields(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a configuration's fields with those that it extends, and paths relative to the file where each stands."""
    if path.resolve() in extended_by:
        raise UserError(f"{path} extends itself")
    if not path.is_file():
        by = f" (extended by {extended_by[-1]})" if extended_by else ""
        if path.is_dir():
            inner = path / "config.yaml"
            meant = f"; did you mean {inner}?" if inner.is_file() else ""
            raise UserError(f"there is no configuration file {path}{by}, which is a directory{meant}")
        there = sorted(map(str, path.parent.glob("*.y*ml")))
        choices = [*there, *bundled.names()]
        raise UserError(f"there is no configuration file {path}{by}; {nearest(path, choices)}")
    if suffix_of(path) in SUFFIXES and suffix_of(path) != ".json":  # JSON is YAML
        raise UserError(
            f"{path} is a file of rows, and a configuration is a YAML file; `hyperadapt init DIR` writes an example"
        )
    values = read_mapping(path)
    base = values.pop("extends", None)
    try:
        values = placed(values, bundled.folder_of_paths(path))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if base is None:
        return values
    if not isinstance(base, str) or not base.strip():
        raise UserError(f"{path}: extends must be the path of one file, not {base!r}")
    base_file = bundled.place_of(Path(base), path.parent)
    return merged(read_fields(base_file, (*extended_by, path.resolve())), values)


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML mapping."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} must be a YAML mapping of fields, not {type(values).__name__}")
    return values


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the base with changes, section by section; a method of another name starts anew."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            other_method = key == "method" and "name" in old and value.get("name") not in (None, old["name"])
            value = value if other_method else merged(old, value)
        result[key] = value
    return result


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Turn overrides into the fields that they change, with paths relative to the working directory.

    Raises:
        UserError: if one is not of the form key=value, or two set the same field.
    """
    changes: dict[str, Any] = {}
    set_by: dict[str, str] = {}
    for override in overrides:
        change, shown = parse_override(override), shortened(override)
        for field in leaves(change):
            for other, earlier in set_by.items():
                if f"{field}.".startswith(f"{other}.") or other.startswith(f"{field}."):
                    raise UserError(f"'{earlier}' and '{shown}' set the same field; keep one of them")
        set_by |= dict.fromkeys(leaves(change), shown)
        try:
            changes = merged(changes, placed(change, ""))
        except ValueError as error:
            raise UserError(f"override '{shown}': {error}") from None
    return changes


def parse_override(override: str) -> dict[str, Any]:
    """Turn "a.b=1" into {"a": {"b": 1}}."""
    key, equals, value = override.partition("=")
    where = f"override '{shortened(override)}'"
    if not equals or not key:
        raise UserError(f"{where} is not of the form key=value, as training.max_steps=100")
    result = parse_yaml(value, where)
    parts = key.split(".")
    result = named(result) if parts[-1] == "method" else result
    for part in reversed(parts):
        result = {part: result}
    return result


def leaves(fields: Mapping[str, Any], path: str = "") -> set[str]:
    """List the fields that are given, as "data.tasks"."""
    found: set[str] = set()
    for name, value in fields.items():
        here = f"{path}{name}"
        found |= leaves(value, f"{here}.") if isinstance(value, dict) else {here}
    return found
