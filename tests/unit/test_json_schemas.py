from templora_memory.json_schemas import MAX_SAFE_INTEGER, bounded_schema


def test_schemas_are_closed_and_their_references_follow_them():
    schema = {
        "title": "Person",
        "type": "object",
        "properties": {
            "title": {"type": "string", "description": "of the book", "minLength": 90},
            "enum": {"enum": ["a", "b"]},
            "age": {"type": "integer", "minimum": 0},
            "pet": {"$ref": "#/$defs/Pet"},
        },
        "required": ["title"],
        "$defs": {"Pet": {"type": "object", "properties": {"name": {"type": "string"}}}},
    }
    bounded = bounded_schema(schema, 20, at="#/properties/arguments")
    assert bounded["additionalProperties"] is False
    assert bounded["properties"]["title"] == {"type": "string", "minLength": 90, "maxLength": 90}
    assert bounded["properties"]["age"] == {
        "type": "integer",
        "minimum": 0,
        "maximum": MAX_SAFE_INTEGER,
    }
    assert bounded["properties"]["enum"] == {"enum": ["a", "b"]}
    assert bounded["properties"]["pet"] == {"$ref": "#/properties/arguments/$defs/Pet"}
    assert bounded["$defs"]["Pet"]["properties"]["name"]["maxLength"] == 20
    assert schema["title"] == "Person"


def test_a_schema_that_contains_itself_is_bounded_at_every_depth():
    node = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "next": {"$ref": "#/$defs/Node"}},
    }
    bounded = bounded_schema({"$ref": "#/$defs/Node", "$defs": {"Node": node}}, 20)
    assert bounded["$ref"] == "#/$defs/Node"
    assert bounded["$defs"]["Node"]["properties"] == {
        "name": {"type": "string", "maxLength": 20},
        "next": {"$ref": "#/$defs/Node"},
    }
