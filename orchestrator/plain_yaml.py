"""YAML as people expect it: ``1e-3`` is a number, and a key that stands twice is a mistake.

PyYAML follows version 1.1 of the format, in which ``1e-3`` is a word.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

__all__ = ["read_yaml", "write_yaml"]


def read_yaml(text: str) -> Any:
    """Plain values of a text.

    Raises:
        yaml.YAMLError: It is not YAML, or repeats a key.
    """
    return yaml.load(text, Loader=_Loader)


def write_yaml(value: Any) -> str:
    """Plain values as a text that ``read_yaml`` reads back to the same."""
    # Outside ASCII, characters are escaped: PyYAML leaves some line breaks as they are otherwise.
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=100)


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Knows the same numbers, so that words which look like one are quoted.

    Lists of plain values stand on as few lines as they need.
    """

    def represent_sequence(self, tag: str, sequence: Any, flow_style: Any = None) -> yaml.Node:
        node = super().represent_sequence(tag, sequence, flow_style)
        node.flow_style = all(isinstance(item, yaml.ScalarNode) for item in node.value)
        return node


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )
