"""What a run's data is, in a few lines: which files, how many samples of what, and what to know about them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unihpe_fast.config import DataConfig
from unihpe_fast.data.loader import SYNTHETIC
from unihpe_fast.data.records import MODALITIES
from unihpe_fast.data.store import Store
from unihpe_fast.data.synthetic_dataset import SYNTHETIC_SIZE


def data_lines(config: DataConfig) -> list[str]:
    """A line for each source of config.train and config.val, and one for each caveat. Raises as Store does."""
    total = sum(config.train_weights)
    shares = [f", {weight / total:.0%} of every epoch" for weight in config.train_weights]
    lines = []
    for use, names, notes in (("train", config.train, shares), ("val", config.val, [])):
        for number, name in enumerate(names):
            lines.append(f"{use}: {source_line(name)}{notes[number] if notes else ''}")
    return lines + [f"caveat: {caveat}" for caveat in caveats((*config.train, *config.val))]


def trained_and_validated(config: DataConfig) -> list[str]:
    """The files of config.val that are among those of config.train, by whatever path."""
    trained = {Path(name).resolve() for name in config.train if name != SYNTHETIC}
    return [name for name in config.val if name != SYNTHETIC and Path(name).resolve() in trained]


def source_line(name: str) -> str:
    """A prepared file, or the synthetic people: how many samples, and of what. Raises as Store does."""
    if name == SYNTHETIC:
        return f"{SYNTHETIC}, {SYNTHETIC_SIZE} people made on the fly"
    store = Store(name)
    has = ", ".join(f"{count} with {m}" for m, count in zip(MODALITIES, store.present.sum(1).tolist(), strict=True))
    return f"{name}, {len(store)} samples of {store.attributes['dataset']} {store.attributes['split']} ({has})"


def caveats(names: Sequence[str]) -> list[str]:
    """How the samples of these sources differ from what was published, each once, with the file's name."""
    found = {name: Store(name).caveat for name in names if name != SYNTHETIC}
    return [f"{name}: {caveat}" for name, caveat in found.items() if caveat]


def data_section(config: DataConfig) -> dict[str, Any]:
    """What stands beside scores on config.val: the "axes" of 3D poses, and its "caveats" where there are any."""
    found = caveats(config.val)
    return {"axes": config.axes, **({"caveats": found} if found else {})}
