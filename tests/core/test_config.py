import pytest

from acestep.core.config import Config, assign, group, option, parse
from acestep.core.errors import ConfigError, UnknownName
from acestep.core.registry import Registry


class Inner(Config):
    rank: int = option(8, "Rank", "Width.", ge=1)


class Outer(Config):
    epochs: int = option(10, "Epochs", "Passes.", ge=1)
    rate: float = option(1e-4, "Rate", "Step size.", gt=0)
    inner: Inner = group(Inner, "Inner")


def test_every_problem_is_told_at_once_with_the_nearest_name():
    with pytest.raises(ConfigError) as caught:
        parse(Outer, {"epoch": 3, "epochs": 0, "rate": "fast", "inner": {"rnk": 4}})
    told = caught.value.problems
    assert "unknown option 'epoch' (did you mean 'epochs'?)" in told
    assert "unknown option 'rnk' (did you mean 'rank'?)" in told
    assert any(line.startswith("epochs must be greater than or equal to 1, got 0") for line in told)
    assert any(line.startswith("rate must be a valid number") for line in told)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None, "fast"])
def test_what_is_not_a_number_is_refused(bad):
    with pytest.raises(ConfigError, match="rate"):
        parse(Outer, {"rate": bad})


def test_an_assignment_is_checked_and_leaves_the_old_value():
    config = Outer()
    with pytest.raises(ConfigError, match="epochs must be greater than or equal to 1, got -2"):
        assign(config, "epochs", -2)
    with pytest.raises(ConfigError, match="unknown option 'epoch'"):
        assign(config, "epoch", 2)
    assert config.epochs == 10
    assign(config, "epochs", "12")
    assert config.epochs == 12


def test_a_configuration_survives_json():
    config = Outer(epochs=3, inner=Inner(rank=4))
    assert parse(Outer, config.model_dump(mode="json")) == config


def test_a_registry_names_the_nearest_entry_and_refuses_a_second_of_one_name():
    table: Registry = Registry("optimizer")
    table.register("prodigy", label="Prodigy")(dict)
    with pytest.raises(UnknownName) as caught:
        table["prodgy"]
    assert caught.value.hint == "Did you mean 'prodigy'?"
    with pytest.raises(ValueError, match="registered twice"):
        table.register("prodigy", label="Prodigy")
