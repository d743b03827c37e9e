from dataclasses import dataclass
from typing import Annotated

import pytest

from acestep.core.config import Config, assign, choices, fields, group, option, parse
from acestep.core.errors import ConfigError, UnknownName
from acestep.core.registry import Entry, NameIn, Registry


class Inner(Config):
    rank: int = option(8, "Rank", "Width.", ge=1)


class Outer(Config):
    epochs: int = option(10, "Epochs", "Passes.", ge=1)
    rate: float = option(1e-4, "Rate", "Step size.", gt=0)
    inner: Inner = group(Inner, "Inner")


def test_every_problem_is_reported_with_the_most_similar_name():
    with pytest.raises(ConfigError) as caught:
        parse(Outer, {"epoch": 3, "epochs": 0, "rate": "fast", "inner": {"rnk": 4}})
    problems = caught.value.problems
    assert "unknown option 'epoch' (did you mean 'epochs'?)" in problems
    assert "unknown option 'rnk' (did you mean 'rank'?)" in problems
    assert any(line.startswith("epochs must be greater than or equal to 1, got 0") for line in problems)
    assert any(line.startswith("rate must be a valid number") for line in problems)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None, "fast"])
def test_a_value_that_is_not_a_number_is_rejected(bad):
    with pytest.raises(ConfigError, match="rate"):
        parse(Outer, {"rate": bad})


def test_an_invalid_assignment_is_rejected_and_keeps_the_old_value():
    config = Outer()
    with pytest.raises(ConfigError, match="epochs must be greater than or equal to 1, got -2"):
        assign(config, "epochs", -2)
    with pytest.raises(ConfigError, match="unknown option 'epoch'"):
        assign(config, "epoch", 2)
    assert config.epochs == 10
    assign(config, "epochs", "12")
    assert config.epochs == 12


def test_a_configuration_is_the_same_after_json():
    config = Outer(epochs=3, inner=Inner(rank=4))
    assert parse(Outer, config.model_dump(mode="json")) == config


@dataclass(frozen=True, kw_only=True)
class Shop(Entry[type]):
    price: float | None = None


def shops() -> Registry[Shop]:
    registry = Registry("shop", Shop)
    registry.register("corner", target="no.such.module:Shop", label="Corner shop", price=2.5)
    return registry


def test_an_unknown_name_is_an_error_with_a_suggestion_and_a_taken_name_is_rejected():
    registry = shops()
    with pytest.raises(UnknownName) as caught:
        registry["cornr"]
    assert caught.value.hint == "Did you mean 'corner'?"
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("corner", target="builtins:dict", label="Another")


def test_an_entry_has_facts_and_imports_its_target_when_loaded():
    registry = shops()
    registry.register("dict", target="builtins:dict", label="Dict")
    assert (registry["corner"].price, registry["dict"].price) == (2.5, None)
    assert registry["dict"].load() is dict
    with pytest.raises(ModuleNotFoundError):
        registry["corner"].load()
    with pytest.raises(TypeError, match="color"):
        registry.register("red", target="builtins:dict", label="Red", color="red")


def test_a_config_field_accepts_names_registered_after_its_class_was_defined():
    registry, changes = shops(), []

    class Visit(Config):
        shop: Annotated[str, NameIn(registry, extra=("none",))] = option("corner", "Shop", "Where.")

    registry.on_change(lambda: changes.append(registry.names))
    with pytest.raises(ConfigError, match="shop must be 'corner' or 'none', got 'market'"):
        parse(Visit, {"shop": "market"})
    registry.register("market", target="builtins:dict", label="Market")
    assert parse(Visit, {"shop": "market"}).shop == "market"
    assert choices(fields(Visit)["shop"]) == {"corner": "Corner shop", "market": "Market", "none": "none"}
    registry.unregister("market")
    with pytest.raises(ConfigError, match="got 'market'"):
        parse(Visit, {"shop": "market"})
    assert changes == [["corner", "market"], ["corner"]]
