"""The JSON Schema, the templates and the catalog agree with the structs."""

import json
from typing import Any

import msgspec
import pytest
import yaml

from flowctl.spec import model
from flowctl.spec.catalog import CATALOG, names_of
from flowctl.spec.load import load_text
from flowctl.spec.model import Component
from flowctl.spec.schema import EDITOR_LINE, json_schema, json_schema_text
from flowctl.spec.templates import TEMPLATES

SCHEMA = json_schema()
STRUCTS: list[type[msgspec.Struct]] = [
    part for part in vars(model).values() if isinstance(part, type) and issubclass(part, model.Record)
]


def conforms(value: Any, part: Any) -> bool:
    """Whether a value fits the part of a JSON Schema, for the keywords that ours uses."""
    if "$ref" in part and not conforms(value, SCHEMA["$defs"][part["$ref"].rpartition("/")[2]]):
        return False
    kinds: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "null": type(None),
    }
    if "type" in part and (not isinstance(value, kinds[part["type"]]) or isinstance(value, bool)):
        return False
    checks = [
        "enum" not in part or value in part["enum"],
        all(conforms(value, option) for option in part.get("allOf", [])),
        "anyOf" not in part or any(conforms(value, option) for option in part["anyOf"]),
        "oneOf" not in part or sum(conforms(value, option) for option in part["oneOf"]) == 1,
        "minimum" not in part or value >= part["minimum"],
        "maximum" not in part or value <= part["maximum"],
        "minItems" not in part or len(value) >= part["minItems"],
    ]
    if not all(checks):
        return False
    if isinstance(value, list):
        return all(conforms(item, part.get("items", {})) for item in value)  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, dict):
        properties = part.get("properties", {})
        extra = part.get("additionalProperties", {})
        return set(part.get("required", [])) <= set(value) and all(  # pyright: ignore[reportUnknownArgumentType]
            conforms(item, properties[key]) if key in properties else extra is not False and conforms(item, extra)
            for key, item in value.items()  # pyright: ignore[reportUnknownVariableType]
        )
    return True


def test_the_schema_is_the_structs():
    """Property names are the fields' names in the file, nothing else is allowed, and every field says what it is."""
    parts = SCHEMA["$defs"]
    for struct in STRUCTS:
        if struct is model.Record:
            continue
        part = parts[struct.__name__]
        assert list(part["properties"]) == [field.encode_name for field in msgspec.structs.fields(struct)]
        assert part["additionalProperties"] is False
        assert part["description"]
        assert all(entry.get("description") for entry in part["properties"].values()), struct.__name__
    assert SCHEMA["$schema"].endswith("2020-12/schema")
    assert json.loads(json_schema_text()) == SCHEMA


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_loads_and_conforms(name: str):
    """What ``flowctl init`` writes is right, and editors say so too."""
    template = TEMPLATES[name]
    loaded = load_text(template.pipeline)
    assert not loaded.warnings
    assert loaded.pipeline.name == name
    assert template.pipeline.startswith(EDITOR_LINE + "\n")
    assert conforms(yaml.safe_load(template.pipeline), SCHEMA)
    for _, component in loaded.pipeline.components():
        files = [word for word in component.command or [] if word.endswith(".py")]
        assert set(files) <= set(template.files)
    for file, text in template.files.items():
        if file.endswith(".py"):
            compile(text, file, "exec")


def test_the_schema_refuses_what_the_loader_refuses():
    """Unknown fields, wrong types, two ways to run, an unknown type."""
    tree = yaml.safe_load(TEMPLATES["quickstart"].pipeline)
    for change in (
        {"comand": ["x"]},
        {"command": ["x"]},
        {"type": "genrator"},
        {"replicas": "3"},
        {"replicas": 0},
        {"env": {"A": 1}},
    ):
        wrong = json.loads(json.dumps(tree))
        wrong["spec"]["sources"][0].update(change)
        assert not conforms(wrong, SCHEMA), change


def test_the_catalog_knows_the_module_of_each_kind():
    """One name may be two programs."""
    assert names_of("source") == ["generator", "file"]
    assert CATALOG["file"].module_of("sink") == "flowctl_components.file_sink"
    assert CATALOG["map"].module_of("processor") == "flowctl_components.map"
    assert Component(id="a", type="map").type in CATALOG
