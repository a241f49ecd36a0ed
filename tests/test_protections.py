"""The list of protections (`tests/reliability/mutations.yaml`) names code and tests that are there."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
MUTATIONS = yaml.safe_load((ROOT / "tests" / "reliability" / "mutations.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation["fault"])
def test_a_protection_stands_where_the_list_says(mutation):
    source = (ROOT / mutation["file"]).read_text(encoding="utf-8")
    assert source.count(mutation["kept"]) == 1, f"{mutation['file']} does not hold it once"
    assert mutation["kept"] != mutation["removed"]
    file, _, name = mutation["test"].partition("::")
    tests = (ROOT / file).read_text(encoding="utf-8")
    assert not name or f"def {name.partition('[')[0]}(" in tests
