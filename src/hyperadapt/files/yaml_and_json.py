"""YAML and JSON as people write them, read strictly: what is ambiguous is an error with its line, never a guess.

YAML is read by its core schema (YAML 1.2, section 10.3): `no` and `2020-01-01` are texts, and 3e-4 is a number. Keys
are texts, and none may stand twice, where other readers silently take the last.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from hyperadapt.errors import UserError, printable

DEEPEST = 50  # levels, as [[[...]]]; a configuration has five
MOST_VALUES = (
    100_000  # of a text; aliases count as often as they are used, so that a few lines cannot become billions
)
LARGEST_INTEGER = 2**63 - 1

_TAG = "tag:yaml.org,2002:"
# Each plain scalar is the first of these that it matches, or else a text; the last column is how it may begin.
_CORE_SCHEMA = {
    "merge": (re.compile(r"<<"), "<"),
    "null": (re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    "bool": (re.compile(r"true|True|TRUE|false|False|FALSE"), "tTfF"),
    "int": (re.compile(r"[-+]?[0-9]+(_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+"), "-+0123456789"),
    "float": (
        re.compile(
            r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
        ),
        "-+.0123456789",
    ),
}
# What a terminal obeys, and halves of characters; tab and line ends may stand in a text.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """Parses YAML into nodes; `_Values` makes values of them."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own; not YAML 1.1's, where `no` is false

    depth = 0

    def fetch_flow_collection_start(self, token: Any) -> None:
        """Begin [ or {; PyYAML looks ahead, in time that grows with the square of their depth."""
        self.check_depth(self.flow_level, self.get_mark())
        super().fetch_flow_collection_start(token)

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Make a node, in calls as deep as it lies."""
        self.check_depth(self.depth, self.peek_event().start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def check_depth(self, depth: int, mark: Any) -> None:
        """Refuse what is nested too deeply."""
        if depth > DEEPEST:
            raise yaml.MarkedYAMLError(
                problem=f"values are nested more than {DEEPEST} deep", problem_mark=mark
            )


class _Dumper(yaml.SafeDumper):
    """Writes YAML, with quotes around each text that YAML 1.1 or the core schema would take for something else."""


for _name, (_pattern, _begins) in _CORE_SCHEMA.items():
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern.pattern})$"), list(_begins))


def read_yaml(file: Path) -> Any:
    """Read a YAML file.

    Raises:
        UserError: as `parse_yaml`, or if it cannot be read.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not valid YAML: it is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from None
    return parse_yaml(text, str(file))


def parse_yaml(text: str, where: str) -> Any:
    """Make a value of a YAML text.

    Args:
        text: one document.
        where: what errors call it, as the path of its file.

    Raises:
        UserError: if it is no YAML, a key stands twice, or it is nested or repeated beyond all use; with the line.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        problem = " ".join(filter(None, [error.context, error.problem]))
        hint = "; put a text with [ in it between quotes" if problem.endswith("got '['") else ""
        raise UserError(f"{where} is not valid YAML: {line}{' '.join(problem.split())}{hint}") from None
    except yaml.reader.ReaderError as error:
        held = f"#x{error.character:x}" if isinstance(error.character, int) else repr(error.character)
        raise UserError(
            f"{where} is not valid YAML: the character {held} at position {error.position} is not allowed"
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None
    except ValueError as error:  # a character's escape beyond Unicode, which PyYAML does not check
        raise UserError(f"{where} is not valid YAML: {error}") from None
    return None if node is None else _Values(where).value(node)


class _Values:
    """Makes values of the nodes of one text, and counts them."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.count = 0

    def mistake(self, node: yaml.Node, message: str) -> UserError:
        """Make an error that names the line of a node."""
        return UserError(f"{self.where}, line {node.start_mark.line + 1}: {message}")

    def value(self, node: yaml.Node, depth: int = 0) -> Any:
        """Make the value of a node."""
        self.count += 1
        if self.count > MOST_VALUES:
            raise self.mistake(node, f"aliases make this more than {MOST_VALUES:,} values; write it out")
        if depth > DEEPEST:
            raise self.mistake(node, f"values are nested more than {DEEPEST} deep")
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self.mapping(node, depth)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.value(item, depth + 1) for item in node.value]
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, kind)
        raise self.mistake(node, f"the tag {node.tag} is not known here; leave it out")

    def mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        """Make a mapping; what it merges (<<) comes first, and gives way to its own."""
        lines: dict[str, int] = {}
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.mistake(key_node, "a key must be a name, not a list or a mapping")
            key = self.text(key_node)
            if key in lines:
                raise self.mistake(key_node, f"'{key}' stands on line {lines[key]} already; keep one of them")
            lines[key] = key_node.start_mark.line + 1
            value = self.value(value_node, depth + 1)
            if key_node.tag != f"{_TAG}merge":
                own[key] = value
                continue
            for source in reversed(value if isinstance(value, list) else [value]):  # the first one wins
                if not isinstance(source, dict):
                    raise self.mistake(value_node, "<< takes a mapping, or a list of them")
                merged |= source
        return {**merged, **own}

    def scalar(self, node: yaml.ScalarNode, kind: str) -> Any:
        """Make what a scalar stands for, by the core schema."""
        text = self.text(node)
        if kind in ("str", "merge"):
            return text
        if kind not in _CORE_SCHEMA:
            raise self.mistake(node, f"the tag {node.tag} is not known here; leave it out")
        if not _CORE_SCHEMA[kind][0].fullmatch(text):
            raise self.mistake(node, f"'{text}' is no {kind}, as its tag says")
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        digits = text.replace("_", "")
        number = None if len(digits) > 70 else int(digits, {"0o": 8, "0x": 16}.get(digits[:2], 10))
        if number is None or abs(number) > LARGEST_INTEGER:
            raise self.mistake(node, f"the number {text[:20]}… of {len(digits)} digits is too large")
        return number

    def text(self, node: yaml.ScalarNode) -> str:
        """Return a scalar's text, which holds characters that people can read."""
        if control := _CONTROL.search(node.value):
            raise self.mistake(
                node, f"a text holds {printable(control[0])}, which is no character to be read"
            )
        return node.value


def dump_yaml(value: Any) -> str:
    """Write YAML that `parse_yaml`, and any other reader, takes for the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_json(text: str | bytes) -> Any:
    """Make a value of a JSON text.

    Raises:
        UserError: if it is no JSON, is nested beyond all use, or a name stands twice in an object.
    """
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except RecursionError:
        raise UserError("no readable JSON: its values are nested too deeply") from None
    except UserError:
        raise
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"no readable JSON: {error}") from None
    except (
        ValueError
    ):  # the limit that Python sets itself, as the time to read a number grows with its square
        limit = sys.get_int_max_str_digits()
        raise UserError(f"no readable JSON: it holds a number of more than {limit:,} digits") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise UserError(f"'{twice}' stands twice; keep one of them")
    return values
