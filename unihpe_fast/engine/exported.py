"""Parts of a trained model as files for other run times: ONNX, `torch.export`'s own, and AOTInductor's machine code.

Every file takes any batch size from 1 on, carries the options of the model, and is compared with the model before it
takes its place.
"""

import copy
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unihpe_fast.config import Config, to_yaml
from unihpe_fast.data.records import MODALITIES
from unihpe_fast.data.skeleton import NUM_JOINTS
from unihpe_fast.engine.packaged import without_paths
from unihpe_fast.fileio import atomic_path
from unihpe_fast.models.unihpe import UniHPE
from unihpe_kernels.version import __version__

Format = Literal["onnx", "pt2", "aoti"]
PartName = Literal["lifting", "image", "whole"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "pt2": ".pt2", "aoti": ".aoti.pt2"}
# the ONNX operator set that files are written in: the one torch translates to without a conversion
OPSET = 18
# how far a joint may be from the model's, over this many samples
TOLERANCE_MM = 1e-3
SAMPLES = 64
Run = Callable[[Mapping[str, Tensor]], tuple[Tensor, ...]]


class ExportError(ValueError):
    """A model that cannot be written in a format, or whose file does not say what the model says."""


class _Lifting(nn.Module):
    """2D keypoints to 3D joints."""

    def __init__(self, model: UniHPE) -> None:
        super().__init__()
        self.model = model

    def forward(self, keypoints_2d: Tensor, box: Tensor) -> tuple[Tensor, ...]:
        return (self.model.lift(keypoints_2d, box),)


class _Image(nn.Module):
    """Crops to 3D joints and the 2D keypoints of the image's head."""

    def __init__(self, model: UniHPE) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, box: Tensor) -> tuple[Tensor, ...]:
        features = self.model.image_encoder(image, box)
        return self.model.decode(features.embedding, "image"), features.keypoints_2d


class _Whole(nn.Module):
    """`UniHPE.forward` with the inputs that the model has encoders for."""

    def __init__(self, model: UniHPE) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        box: Tensor,
        present: Tensor,
        image: Tensor | None = None,
        keypoints_2d: Tensor | None = None,
        joints_3d: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        said = self.model(image, keypoints_2d, joints_3d, box, present)
        return tuple(x for x in (said.pred_joints_3d, said.embeddings, said.pred_keypoints_2d) if x is not None)


@dataclass(frozen=True)
class Part:
    """What one file holds. outputs: their names, `pred_joints_3d` in mm first; inputs: see `Batch`, by their names."""

    name: PartName
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def parts_of(model: UniHPE) -> dict[PartName, Part]:
    """The parts that a model has, by name: the whole, and the lifting and the image part where it has the encoder."""
    names = dict(zip(MODALITIES, ("image", "keypoints_2d", "joints_3d"), strict=True))
    keypoints = ("pred_keypoints_2d",) if "image" in model.modalities else ()
    inputs = ("box", "present", *(names[modality] for modality in MODALITIES if modality in model.modalities))
    whole = Part("whole", _Whole(model), inputs, ("pred_joints_3d", "embeddings", *keypoints))
    found = {"whole": whole}
    if "pose2d" in model.modalities:
        found["lifting"] = Part("lifting", _Lifting(model), ("keypoints_2d", "box"), ("pred_joints_3d",))
    if "image" in model.modalities:
        found["image"] = Part("image", _Image(model), ("image", "box"), ("pred_joints_3d", *keypoints))
    return {name: found[name] for name in ("lifting", "image", "whole") if name in found}


def example(part: Part, batch: int, image_size: int, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Inputs of `batch` people: drawn, always the same; a fifth of the joints missing; all modalities present."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * 2 - 1

    seen, valid = ((uniform(batch, NUM_JOINTS, 1) > -0.6).float() for _ in range(2))
    made = {
        "image": lambda: uniform(batch, 3, image_size, image_size) * 2,
        "keypoints_2d": lambda: torch.cat([uniform(batch, NUM_JOINTS, 2) * seen, seen], dim=-1),
        "joints_3d": lambda: torch.cat([uniform(batch, NUM_JOINTS, 3) * 800 * valid, valid], dim=-1),
        "box": lambda: uniform(batch, 3) / 3,
        "present": lambda: torch.ones(len(MODALITIES), batch, dtype=torch.bool),
    }
    return {name: made[name]().to(device) for name in part.inputs}


def export_part(path: Path, part: Part, kind: Format, config: Config, device: torch.device | str = "cpu") -> float:
    """Write one part of a model in evaluation mode, whole or not at all; returns how far it is from the model, in mm.

    That is the largest distance of a joint over SAMPLES samples, read back from the file by its own run time. It may be
    TOLERANCE_MM, or four times what the model in float32 is from itself in float64 where that is more. Raises
    ExportError for more, for a format whose package is not installed, and for what the format cannot express; OSError.
    """
    if kind == "onnx" and (missing := [x for x in ("onnx", "onnxscript", "onnxruntime") if not _installed(x)]):
        raise ExportError(f"--to onnx: needs {', '.join(missing)}: pip install 'unihpe-fast[onnx]'")
    image_size = config.data.image_size
    about = {"part": part.name, "unihpe_fast": __version__, "config": to_yaml(without_paths(config))}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        made = Path(folder) / f"{part.name}{SUFFIXES[kind]}"
        try:
            program = _program(part, example(part, 2, image_size, device))
            _WRITERS[kind](program, made, part, about)
            error = distance(part, open_exported(made, kind, part), example(part, SAMPLES, image_size, device))
        except RuntimeError as failed:
            # what torch and its compilers raise has a line that says what and many that say where
            reason = next((line.strip() for line in str(failed).splitlines() if line.strip()), type(failed).__name__)
            raise ExportError(f"{part.name}: cannot be written as {kind}: {reason}") from failed
        with atomic_path(path) as temporary:
            shutil.copyfile(made, temporary)
    return error


def distance(part: Part, run: Run, inputs: Mapping[str, Tensor]) -> float:
    """The largest distance in mm between the joints of `run` and the model; ExportError where it is too large."""
    with torch.no_grad():
        wanted = part.module(**inputs)
        error = _joints_apart(run(inputs), wanted)
        # not "greater": NaN is no agreement
        if not error <= TOLERANCE_MM:
            wide = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
            rounding = _joints_apart(copy.deepcopy(part.module).double()(**wide), wanted)
            # another run time adds up in another order, which lines of sight of people who hardly fit them amplify
            if not error <= 4 * rounding:
                raise ExportError(
                    f"{part.name}: joints must be within {TOLERANCE_MM} mm of the model's, got {error} mm"
                )
    return error


def open_exported(path: Path, kind: Format, part: Part) -> Run:
    """What runs a file of `export_part`: inputs by name -> outputs in the part's order."""
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]

        def run_onnx(inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            return tuple(map(torch.from_numpy, session.run(None, {name: inputs[name].cpu().numpy() for name in names})))

        return run_onnx
    loaded: Any = torch.export.load(path).module() if kind == "pt2" else torch._inductor.aoti_load_package(str(path))
    return lambda inputs: tuple(loaded(**{name: inputs[name] for name in part.inputs}))


def _program(part: Part, inputs: Mapping[str, Tensor]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    shapes = {name: {1 if name == "present" else 0: batch} for name in inputs}
    return torch.export.export(part.module.eval(), (), dict(inputs), dynamic_shapes=shapes)


def _write_onnx(program: torch.export.ExportedProgram, path: Path, part: Part, about: dict[str, str]) -> None:
    translated = torch.onnx.export(
        program, opset_version=OPSET, output_names=list(part.outputs), dynamo=True, verbose=False
    )
    assert translated is not None
    translated.model.metadata_props.update(about)
    translated.save(str(path), external_data=False)


def _write_pt2(program: torch.export.ExportedProgram, path: Path, part: Part, about: dict[str, str]) -> None:
    torch.export.save(program, path, extra_files={"unihpe_fast.json": json.dumps(about)})


def _write_aoti(program: torch.export.ExportedProgram, path: Path, part: Part, about: dict[str, str]) -> None:
    torch._inductor.aoti_compile_and_package(
        program, package_path=str(path), inductor_configs={"aot_inductor.metadata": about}
    )


_WRITERS: dict[Format, Callable[[torch.export.ExportedProgram, Path, Part, dict[str, str]], None]] = {
    "onnx": _write_onnx,
    "pt2": _write_pt2,
    "aoti": _write_aoti,
}


def _joints_apart(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> float:
    return (found[0].to(wanted[0].device).double() - wanted[0].double()).norm(dim=-1).max().item()


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
