"""Which settings a GPU gets: its own file's, its architecture's, or the default."""

import json
from importlib import resources
from types import SimpleNamespace

import pytest
import torch

from unihpe_kernels import tuned
from unihpe_kernels.tuned import choose, settings

FORWARD = ("sv_paired_forward_3_half", "sv_paired_forward_few_half")


@pytest.fixture
def card(monkeypatch):
    """Makes a GPU of this name and capability the one that is asked for."""

    def make(name, capability):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        tuned._names.cache_clear()
        return torch.device("cuda", 0)

    yield make
    tuned._names.cache_clear()


def test_every_hopper_card_gets_the_settings_of_its_architecture(card):
    h100 = settings(FORWARD, 4096, card("NVIDIA H100 80GB HBM3", (9, 0)))
    assert h100 == choose(("sm_90",), FORWARD, 4096) != choose(("default",), FORWARD, 4096)
    assert settings(FORWARD, 4096, card("NVIDIA H200", (9, 0))) == h100
    assert settings(FORWARD, 4096, card("NVIDIA A100", (8, 0))) == choose(("default",), FORWARD, 4096)


def test_the_nearest_file_counts_before_the_nearest_name(monkeypatch):
    files = {
        "default": {"few": [{"tile": 1}]}, "sm_90": {"3": [{"tile": 2}]}, "card": {"few": [{"tile": 3}]},
    }  # fmt: skip
    monkeypatch.setattr(tuned, "_table", lambda name: files.get(name, {}))
    choose.cache_clear()
    try:
        assert choose(("default", "sm_90", "card"), ("3", "few"), 1) == {"tile": 3}
        assert choose(("default", "sm_90", "another"), ("3", "few"), 1) == {"tile": 2}
        assert choose(("default", "sm_90"), ("2", "few"), 1) == {"tile": 1}
    finally:
        choose.cache_clear()


def test_a_card_of_amd_gets_those_for_amd(monkeypatch, card):
    device = card("AMD Instinct MI300X", (9, 4))
    monkeypatch.setattr(torch.version, "hip", "7.0")
    properties = SimpleNamespace(gcnArchName="gfx942:sramecc+:xnack-")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert tuned._names(device) == ("default", "hip", "gfx942", "amd-instinct-mi300x")


@pytest.mark.parametrize("file", [p.name for p in resources.files(tuned).iterdir() if p.name.endswith(".json")])
def test_files_hold_settings_for_every_size(file):
    table = json.loads((resources.files(tuned) / file).read_text())
    known = json.loads((resources.files(tuned) / "default.json").read_text())
    assert isinstance(table.pop("measured", ""), str)
    for kernel, options in table.items():
        parts = kernel.split("_")
        # a number of modalities is a special case of a kind of numbers
        assert kernel in known or (kernel.startswith("sv_paired_") and parts[3] in "2345678"), kernel
        limits = [option.get("up_to") for option in options]
        assert limits[-1] is None
        assert limits[:-1] == sorted(limits[:-1])
