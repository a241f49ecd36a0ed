"""Keyword defaults that suites share: one block, named by the suites, and their own overrides on top."""

from __future__ import annotations

import pytest

import methods
from benchmark import suites
from benchmark.common.errors import UserError


def test_suites_of_one_budget_share_its_defaults_and_add_their_own() -> None:
    named = [suite for suite in map(suites.load, suites.names()) if suite.budget == "mini"]
    assert len(named) >= 6
    for method, changes in suites.budget("mini").items():
        parameters = methods.describe(method).parameters
        for suite in named:
            assert suite.defaults(method, parameters) == {**parameters, **changes}
    more = named[0].model_copy(update={"overrides": {"symerge": {"lr": 0.5}}})
    assert more.defaults("symerge", {"steps": 500, "lr": None}) == {"steps": 100, "lr": 0.5}


def test_a_keyword_that_the_method_does_not_have_is_refused() -> None:
    suite = suites.load("vision-mini-8").model_copy(update={"overrides": {"ties": {"keeep": 0.1}}})
    with pytest.raises(UserError, match="keeep"):
        suite.defaults("ties", methods.describe("ties").parameters)


def test_an_unknown_budget_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown budget 'mimi'; did you mean mini"):
        suites.budget("mimi")


def test_every_method_that_draws_prompts_draws_each_of_a_task_of_llm_small_once_or_thereabouts() -> None:
    suite = suites.load("llm-small")
    assert suite.budget == "prompts"
    for method in suites.budget("prompts"):
        given = suite.defaults(method, methods.describe(method).parameters)
        rounds = given.get("steps", given.get("epochs", 0) * given.get("examples", 0) / given["batch_size"])
        assert 120 <= rounds * given["batch_size"] * given.get("batches_per_task", 1) <= 128, method
    assert suite.defaults("symerge", methods.describe("symerge").parameters)["adapt"] == "last_block"
