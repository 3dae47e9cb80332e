"""The schemas under configs/schemas: in step with the code, and refusing what the code refuses."""

import copy

import jsonschema
import pytest

from pipeline.files import read_json
from pipeline.plugins import names
from pipeline.verbs import schema as verb

STUDY = {"name": "tiny", "sources": [{"path": "scans"}], "split": {"test": 1, "validation": 1}}


def problems(kind, value):
    validator = jsonschema.Draft202012Validator(read_json(verb.FOLDER / f"{kind}.json"))
    return [error.message for error in validator.iter_errors(value)]


def test_the_written_schemas_are_what_vesalius_schema_would_write():
    verb.run(check=True)


def test_a_stale_schema_is_refused_with_the_command_that_mends_it(tmp_path, monkeypatch):
    monkeypatch.setattr(verb, "FOLDER", tmp_path)
    verb.run(check=False)
    verb.run(check=True)
    (tmp_path / "task.json").write_text("{}\n")
    with pytest.raises(ValueError, match=r"task\.json: is out of date; run `vesalius schema`"):
        verb.run(check=True)


@pytest.mark.parametrize("kind", ["study", "recipe", "task"])
def test_each_schema_is_valid_and_names_its_dialect(kind):
    schema = read_json(verb.FOLDER / f"{kind}.json")
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


def test_a_study_may_leave_its_name_to_the_file():
    assert not problems("study", STUDY)
    assert not problems("study", {key: value for key, value in STUDY.items() if key != "name"})


def test_a_misspelt_key_of_a_study_is_refused_at_every_depth():
    assert any("splits" in text for text in problems("study", {**STUDY, "splits": {}}))
    deep = copy.deepcopy(STUDY)
    deep["split"]["tests"] = 1
    assert any("tests" in text for text in problems("study", deep))


def test_every_plug_in_is_a_key_and_others_are_not():
    recipe = read_json(verb.FOLDER / "recipe.json")
    assert set(recipe["properties"]["network"]["properties"]) == set(names("networks"))
    assert set(recipe["properties"]["objectives"]["properties"]) == set(names("objectives"))
    assert set(recipe["properties"]["views"]["additionalProperties"]["properties"]) == set(names("views"))
    network = {"no_such_network": {}}
    assert any("no_such_network" in text for text in problems("recipe", {"network": network}))


def test_mappings_that_must_not_be_empty_may_not_be():
    found = problems("recipe", {"network": {"unet": {}}, "crops": {}, "views": {}, "objectives": {}})
    assert len([text for text in found if "{}" in text]) == 3
