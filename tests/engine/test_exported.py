"""Parts of a model as ONNX, torch.export and AOTInductor files, beside the model in eager mode."""

import os
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from tests.support.models import SIZE, make_batch, poisoned, tiny_config
from tests.support.tiny import tiny
from unihpe_fast.config import Config, to_yaml
from unihpe_fast.engine import exported
from unihpe_fast.engine.checkpoint import CONFIG, save_weights
from unihpe_fast.engine.exported import ExportError, distance, example, export_part, parts_of
from unihpe_fast.export import main
from unihpe_fast.fileio import write_text
from unihpe_fast.models.unihpe import UniHPE

# which samples of seven have which modality: every combination that has one
MIXED = torch.tensor([[1, 1, 0, 0, 1, 0, 1], [1, 0, 1, 0, 1, 1, 0], [1, 1, 1, 1, 0, 0, 0]], dtype=torch.bool)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, UniHPE, Config]:
    """The folder of a run of all three modalities, its model in evaluation mode and its options."""
    torch.manual_seed(0)
    model_config = tiny_config(source_tokens=True, rays=True)
    config = Config(**{**vars(tiny(data={"image_size": SIZE})), "model": model_config})
    model = UniHPE(model_config, image_size=SIZE)
    assert model.source_tokens is not None
    torch.nn.init.normal_(model.source_tokens)
    model.set_mean_pose(torch.randn(17, 3) * 300)
    # statistics of a trained model, not of a new one
    model.train()(*(make_batch(9)[name] for name in ("image", "keypoints_2d", "joints_3d", "box", "present")))
    folder = tmp_path_factory.mktemp("run")
    write_text(folder / CONFIG, to_yaml(config))
    save_weights(folder, model.state_dict())
    return folder, model.eval(), config


def eager(model: UniHPE, name: str, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """What the model says through its public calls, in the order of the part's outputs."""
    with torch.no_grad():
        if name == "lifting":
            pose = model.decode(model.encode_pose2d(inputs["keypoints_2d"], inputs["box"]), "pose2d")
            return (model.to_rays(pose, inputs["keypoints_2d"], inputs["box"]),)
        if name == "image":
            embedding = model.encode_image(inputs["image"], inputs["box"])
            return model.decode(embedding, "image"), model.image_encoder(inputs["image"], inputs["box"]).keypoints_2d
        said = model(*(inputs[key] for key in ("image", "keypoints_2d", "joints_3d", "box", "present")))
        return said.pred_joints_3d, said.embeddings, said.pred_keypoints_2d


def check(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], present: Tensor | None = None) -> None:
    """Joints to 1e-3 mm, embeddings and crop units to float32's sums; of the modalities that samples have."""
    keep = slice(None) if present is None else present
    # keypoints that were drawn at random fit no pose: how far away the person stands, and so the lines of sight, is
    # known to fewer digits than the pose is
    allowed = 1e-3 + 2e-6 * wanted[0].norm(dim=-1)
    excess = (found[0] - wanted[0]).norm(dim=-1) - allowed
    assert excess[keep].max() < 0
    for mine, theirs in zip(found[1:], wanted[1:], strict=True):
        rows = keep if mine.shape[:1] == (3,) else slice(None) if present is None else present[0]
        torch.testing.assert_close(mine[rows], theirs[rows], rtol=1e-4, atol=1e-5)


# the whole has all that the image part has
@pytest.mark.parametrize(
    "parts", [["lifting", "whole"], pytest.param(["lifting", "image", "whole"], marks=pytest.mark.slow)], ids="+".join
)
def test_the_command_writes_what_onnxruntime_reads(
    run: tuple[Path, UniHPE, Config], tmp_path: Path, capsys: pytest.CaptureFixture[str], parts: list[str]
) -> None:
    folder, model, _ = run
    # without --parts all that the model has
    chosen = ["--parts", *parts] if len(parts) < 3 else []
    assert main([str(folder), str(tmp_path), "--to", "onnx", *chosen]) == 0
    assert capsys.readouterr().out.count("opset 18") == len(parts)
    for name in parts:
        path = tmp_path / f"{name}.onnx"
        read = onnx.load(path)
        onnx.checker.check_model(read, full_check=True)
        assert [(entry.domain, entry.version) for entry in read.opset_import] == [("", 18)]
        about = {entry.key: entry.value for entry in read.metadata_props}
        assert about["part"] == name
        assert "source_tokens: true" in about["config"]
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        assert session.get_outputs()[0].name == "pred_joints_3d"
        # batches that it was not traced with, the last with modalities missing and NaN in their place
        for batch, present in ((make_batch(1), None), (make_batch(64, seed=1), None), (make_batch(7), MIXED)):
            if present is not None:
                if name != "whole":
                    continue
                batch = poisoned(batch | {"present": present})
            wanted = eager(model, name, batch)
            got = session.run(None, {entry.name: batch[entry.name].numpy() for entry in session.get_inputs()})
            check(tuple(map(torch.from_numpy, got)), wanted, present)


def test_torch_reads_back_what_it_exported(run: tuple[Path, UniHPE, Config], tmp_path: Path) -> None:
    folder, model, _ = run
    assert main([str(folder), str(tmp_path), "--to", "pt2", "--parts", "whole"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"whole.pt2"}
    batch = poisoned(make_batch(7, present=MIXED))
    loaded = torch.export.load(tmp_path / "whole.pt2").module()
    found = loaded(**{name: batch[name] for name in ("box", "present", "image", "keypoints_2d", "joints_3d")})
    check(tuple(found), eager(model, "whole", batch), MIXED)


# compiling the convolutions of the others takes a minute: `make compile` does
@pytest.mark.slow  # a C++ compiler works for a quarter of a minute; what it is given is exported above
@pytest.mark.parametrize("name", ["lifting", *(["image", "whole"] if os.environ.get("COMPILE") == "all" else [])])
def test_compiled_ahead_of_time(run: tuple[Path, UniHPE, Config], tmp_path: Path, name: str) -> None:
    folder, model, _ = run
    assert main([str(folder), str(tmp_path), "--to", "aoti", "--parts", name]) == 0
    loaded = torch._inductor.aoti_load_package(str(tmp_path / f"{name}.aoti.pt2"))
    for size in (1, 7, 64):
        batch = make_batch(size, seed=1)
        found = loaded(**{key: batch[key] for key in parts_of(model)[name].inputs})
        check(tuple(found), eager(model, name, batch))


def test_a_file_that_says_something_else_takes_no_place(
    run: tuple[Path, UniHPE, Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model, config = run
    part = parts_of(model)["lifting"]

    def wrong(*_: object) -> exported.Run:
        return lambda inputs: (part.module(**inputs)[0] + torch.tensor([0.0, 0.0, 0.5]),)

    # tracing takes seconds and is tested above
    monkeypatch.setattr(exported, "_program", lambda *_: None)
    monkeypatch.setitem(exported._WRITERS, "pt2", lambda _, path, *__: path.write_bytes(b"something else"))
    monkeypatch.setattr(exported, "open_exported", wrong)
    target = tmp_path / "lifting.pt2"
    target.write_bytes(b"the one before")
    with pytest.raises(ExportError, match=r"lifting: joints must be within 0\.001 mm of the model's, got 0\.5"):
        export_part(target, part, "pt2", config)
    assert target.read_bytes() == b"the one before"
    assert list(tmp_path.iterdir()) == [target]
    assert distance(part, lambda inputs: part.module(**inputs), example(part, 3, SIZE)) == 0
    with pytest.raises(ExportError, match="got nan mm"):
        distance(part, lambda inputs: (part.module(**inputs)[0] * torch.nan,), example(part, 3, SIZE))


def test_what_cannot_be_exported_is_said(
    run: tuple[Path, UniHPE, Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _, _ = run
    assert main(["lifting", str(tmp_path), "--to", "pt2", "--parts", "image"]) == 2
    assert "--parts must be among lifting, whole for this model, got image" in capsys.readouterr().err
    assert main([str(folder), str(tmp_path / "x.safetensors"), "--licence", "free"]) == 2
    assert "--data must be given" in capsys.readouterr().err
    monkeypatch.setattr(exported, "_installed", lambda name: name != "onnxscript")
    assert main([str(folder), str(tmp_path), "--to", "onnx"]) == 2
    assert "needs onnxscript: pip install 'unihpe-fast[onnx]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
