import dataclasses
from pathlib import Path

import pytest

from unihpe_fast.config import (
    AugmentConfig,
    Config,
    ConfigError,
    DataConfig,
    augment_of,
    check,
    read_config,
    to_yaml,
)
from unihpe_fast.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_sound_and_survives_its_own_yaml(name: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(check(PRESETS[name])))
    assert read_config(file) == PRESETS[name]


def test_missing_options_take_their_defaults(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("data: {batch_size: 7, augment: {rotate: 3}}")
    wanted = Config(data=DataConfig(batch_size=7, augment=AugmentConfig(rotate=3.0)))
    assert read_config(file) == wanted


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("optim: {steps: x}", "optim.steps"),
        ("optim: {steps: '3'}", "optim.steps"),
        ("optim: {lr: true}", "optim.lr"),
        ("learning: {}", "learning"),
        ("data: {train: synthetic}", "data.train"),
        ("data: {batch_size: 0}", "data.batch_size"),
        ("data: {image_size: 0}", "image-size"),
        ("loss: {negatives: some}", "some"),
        ("model: {modalities: [sound]}", "modalities"),
        ("model: {modalities: [pose2d, pose2d]}", "modalities"),
        ("optim: {ema: 1.0}", "ema"),
        ("{loss: {area: 0.1}, model: {modalities: [pose2d, pose3d]}}", "--loss.area 0.1: .* or three modalities"),
        ("model: {image: {frozen: true}}", "frozen leaves .* random weights as they are: wanted .*pretrained too"),
        ("data: {train_weights: [1.0, 2.0]}", "train-weights"),
        ("data: {augment_for: {a.h5: '{flip: false}'}}", "augment-for a.h5: wanted one of the training sources"),
        ("data: {augment_for: {synthetic: '{spin: 3}'}}", "augment-for synthetic: .*spin"),
        ("data: {augment_for: {synthetic: '{rotate: far}'}}", "augment-for synthetic: .*rotate"),
        ("data: {augment_for: {synthetic: '3'}}", "augment-for synthetic '3': found int, wanted a mapping"),
        ("data: {augment_for: {synthetic: '{'}}", "augment-for synthetic"),
        (f"optim: {{steps: {'9' * 4500}}}", "YAML"),
        (f"optim: {{steps: {'9' * 400}}}", r"whole numbers must be within 2\^62, got one of 1329 bits"),
        ("optim: {lr: .nan}", "--optim.lr nan: must be finite"),
        ("data: {train_weights: [.inf]}", "--data.train_weights inf: must be finite"),
        ("optim: {3: 4}", "names must be text, got 3"),
        ("3: {4: 5}", "names must be text, got 3"),
        ("? [a, b]\n: 1", "YAML|names must be text"),
        ("data: {augment_for: {synthetic: '{1: 2}'}}", "augment-for synthetic '{1: 2}': names must be text"),
        ("optim: &a [*a]", "must hold at most 10000 values"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
            "d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d]",
            "must hold at most 10000 values",
        ),
        ("optim: {steps: 2001-99-99}", "YAML"),
        ("[" * 5000, "YAML"),
        ("- 1", "mapping"),
        ("{", "YAML"),
        ("!!python/object/apply:os.system ['true']", "YAML"),
    ],
)
def test_a_bad_file_is_refused_naming_file_and_option(text: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=named) as raised:
        read_config(file)
    assert "odd.yaml" in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        read_config(tmp_path / "nowhere.yaml")


def test_a_source_has_its_own_augmentation() -> None:
    data = DataConfig(
        train=("a.h5", "b.h5"),
        augment=AugmentConfig(rotate=10, scale=0.1),
        augment_for={"b.h5": "{rotate: 45, flip: false}"},
    )
    assert augment_of(data, "a.h5") == data.augment
    assert augment_of(data, "b.h5") == AugmentConfig(rotate=45.0, scale=0.1, flip=False)


def test_check_looks_at_what_the_command_line_set() -> None:
    config = Config(optim=dataclasses.replace(Config().optim, accumulate=0))
    with pytest.raises(ConfigError, match=r"optim\.accumulate 0"):
        check(config)
