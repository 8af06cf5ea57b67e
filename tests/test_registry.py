"""What the registry refuses."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest

from lvmzoo import registry
from lvmzoo.store import compose


def test_a_class_of_the_same_name_does_not_take_the_place_of_a_model() -> None:
    entry = registry.get("lds")
    other = type(entry.model.__name__, (entry.model,), {"__module__": "somewhere.else"})
    with pytest.raises(ValueError, match="is taken by lvmzoo"):
        registry.register(dataclasses.replace(entry, model=other))
    assert registry.get("lds").model is entry.model


@dataclasses.dataclass(frozen=True)
class Odd:
    name: str = "odd"
    mode: Literal["a", "b"] = "a"  # OmegaConf has no such type


def test_a_plugin_whose_config_cannot_be_stored_harms_no_other_model() -> None:
    entry = registry.get("lds")
    model = type("Odd", (entry.model,), {"__module__": "somewhere.else"})
    registry.register(dataclasses.replace(entry, model=model, config=Odd))
    with pytest.warns(UserWarning, match="Plugin 'odd' could not be loaded"):
        assert compose(["model=lds", "data=lds"]).model.name == "lds"
    assert "odd" not in registry.entries()
    assert "Literal" in registry.broken_plugins()["odd"]
