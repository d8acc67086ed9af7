"""Recipes and their fields."""

import tomllib
from dataclasses import fields

import pytest

from bnn.config import ConfigError, TrainConfig, recipes


@pytest.mark.parametrize("name", recipes())
def test_every_shipped_recipe_is_valid(name):
    """A recipe that ships can be read, and survives being written and read again."""
    config = TrainConfig.from_recipe(name)
    assert isinstance(config, TrainConfig)


def test_written_config_reads_back(tmp_path):
    """to_toml gives the recipe of the very same config, for every field's type."""
    config = TrainConfig.from_recipe(
        "digits", lr=3e-7, lr_scaling=False, model="binarynet_mlp", data='a "b" \\ ü'
    )
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    assert TrainConfig.from_recipe(path) == config


def test_any_text_reads_back():
    """Every character of Unicode goes through TOML; what is none, half a pair, is refused by name."""
    every = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    config = TrainConfig(data=every)
    assert config.to_toml().isascii()
    assert TrainConfig(**tomllib.loads(config.to_toml())) == config
    for character in "\ud800\udcff\udfff":  # as names of files have them that are no UTF-8
        with pytest.raises(ConfigError, match=r"data = 'a\\ud[8cf][0f][0f]' is no UTF-8"):
            TrainConfig(data=f"a{character}")


def test_changes_override_the_recipe():
    """A keyword replaces the recipe's value; an integer is taken where a float is due."""
    config = TrainConfig.from_recipe("digits", epochs=2, lr=1)
    assert (config.epochs, config.lr) == (2, 1.0)
    assert type(config.lr) is float


def test_every_field_explains_itself():
    """Each field has a help text, which the command line shows."""
    assert all(f.metadata["help"] for f in fields(TrainConfig))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("epoch = 3", "unknown field 'epoch'; did you mean 'epochs'?"),
        ("epochs = 0", "epochs = 0 must be positive"),
        ("epochs = -1", "epochs = -1 must be positive"),
        ("epochs = 1.5", "epochs = 1.5 is not of type int"),
        ("epochs = true", "epochs = True is not of type int"),
        ("lr = nan", "lr = nan"),
        ("lr = inf", "lr = inf must be finite"),
        ("width = 0", "width = 0 must be positive"),
        ("dropout = 1.0", "dropout = 1.0 must be at least 0 and below 1"),
        ("adversarial = 1.5", "adversarial = 1.5 must be from 0 to 1"),
        ("validation = -5", "validation = -5 must not be negative"),
        ("lr_final = 0.0", "lr_final = 0.0 is too small for the schedule"),
        ("warmup = 10.0", "warmup = 10.0 must be below epochs"),
        ("optimizer = 'adamm'", "is not one of adam, adamw, sgd; did you mean 'adam'?"),
        ("weights = 'binary'", "weights = 'binary' is not one of deterministic, stochastic, float"),
        ("epochs = ", "recipe"),
        ("latent_init = 1e308", "latent_init = 1e+308 must be at most 1"),
        ("data = " + "[" * 20_000, "recursion"),
        ("data = " + "{a = " * 10_000 + "1" + "}" * 10_000, "recursion"),
        ("lr" + ".a" * 2000 + " = 1", "lr = (dict) is not of type float"),
        ("weights" + ".a" * 2000 + " = 1", "weights = (dict) is not one of"),
        ("validation = " + "9" * 5000, "4300 digits"),
        ("validation = 0x" + "f" * 5000, "validation = (int) must be below 2^31"),
        ("lr = " + "9" * 400, "lr = inf must be finite"),
        ("lr = -" + "9" * 4000, "lr = inf must be finite"),
    ],
    ids=lambda text: text[:30],
)
def test_wrong_recipe_is_one_clear_line(tmp_path, text, problem):
    """Each mistake in a recipe is a ConfigError of one line that names the file, the field and the value."""
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_recipe(path)
    assert problem in str(caught.value)
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_recipe_suggests_the_nearest():
    """A mistyped recipe name is answered with the nearest one and the list."""
    with pytest.raises(ConfigError, match="unknown recipe 'mnits'; did you mean 'mnist'") as caught:
        TrainConfig.from_recipe("mnits")
    assert "digits" in str(caught.value)
