"""What the registry refuses."""

from __future__ import annotations

import dataclasses

import pytest

from lvmzoo import registry


def test_a_class_of_the_same_name_does_not_take_the_place_of_a_model() -> None:
    entry = registry.get("lds")
    other = type(entry.model.__name__, (entry.model,), {"__module__": "somewhere.else"})
    with pytest.raises(ValueError, match="is taken by lvmzoo"):
        registry.register(dataclasses.replace(entry, model=other))
    assert registry.get("lds").model is entry.model
