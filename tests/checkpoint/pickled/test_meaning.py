"""What a class of another library stands for."""

from __future__ import annotations

import io
from typing import Any

import torch
from omegaconf import ListConfig, OmegaConf

from mvae.checkpoint import read
from mvae.checkpoint.pickled.plain import Plain, Replaced
from mvae.checkpoint.pickled.values import Global, Object
from mvae.checkpoint.pickled.writer import Pickler


def became(value: Any, **options: Any) -> tuple[Any, list[Replaced]]:
    """What torch reads in place of a value, and what is listed."""
    from mvae.checkpoint.formats.stream import Stream
    from mvae.checkpoint.formats.zip_writer import write_checkpoint

    buffer, again = io.BytesIO(), io.BytesIO()
    torch.save({"x": value}, buffer, **options)
    pickler = Pickler()
    with Stream() as stream:
        write_checkpoint(again, read(buffer.getvalue()).tree, lambda stored: stream.storage(stored.storage), pickler)
    return torch.load(io.BytesIO(again.getvalue()), weights_only=True)["x"], pickler.replaced


def test_the_list_that_is_shown_is_the_list() -> None:
    layers = OmegaConf.create({"layers": [600, 200]}).layers
    assert isinstance(layers, ListConfig)
    assert str(became(layers)[1][0]) == "x was omegaconf.listconfig.ListConfig, now [600, 200]"
    nested = str(became(OmegaConf.create({"a": [1, {"b": [2]}]}))[1][0])
    assert nested == "x was omegaconf.dictconfig.DictConfig, now {'a': [1, {'b': [2]}]}"


def test_what_says_that_it_stands_for_itself() -> None:
    mirror = Object(Global("omegaconf.nodes", "AnyNode"))
    other = Object(Global("omegaconf.nodes", "AnyNode"))
    mirror.state, other.state = {"_val": other}, {"_val": mirror}
    plain = Plain()
    assert [bool(entry.lost) for entry in plain.go_through([mirror])] == [True]
    assert plain.of(mirror) is None
