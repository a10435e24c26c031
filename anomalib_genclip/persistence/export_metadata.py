# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""What an exported file says of itself, in ONNX's ``metadata_props``, OpenVINO's ``rt_info``, torch's metadata.json."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET  # reads what this package or OpenVINO has written

from anomalib_genclip.processing.post_processor import NATURAL_THRESHOLD, RawScorePostProcessor
from anomalib_genclip.utils.files import atomic_write, atomic_write_folder
from anomalib_genclip.utils.tensors import digest

KEY = "genclip"
_PACKAGES = ("anomalib", "anomalib-genclip", "open_clip_torch", "torch")


def thresholds_of(module: Any) -> dict[str, Any]:  # noqa: ANN401  # GenCLIP
    """Return ``image_threshold``, ``pixel_threshold`` and ``calibration`` of a model."""
    own = module.post_processor
    if not isinstance(own, RawScorePostProcessor):
        return {"image_threshold": NATURAL_THRESHOLD, "pixel_threshold": NATURAL_THRESHOLD, "calibration": None}
    thresholds = {name: float(getattr(own, f"normalized_{name}")) for name in ("image_threshold", "pixel_threshold")}
    return {**thresholds, "calibration": own.calibration}


def metadata_of(module: Any) -> dict[str, Any]:  # noqa: ANN401  # GenCLIP
    """Describe a model that is about to be exported, as plain data."""
    model = module.model
    learned = {key: value for key, value in model.state_dict().items() if not key.startswith("clip.")}
    return {
        **thresholds_of(module),
        "class_name": model.class_names.names[int(model.default_class)],
        "class_name_filter": model.class_name_filter,
        "score_weight": model.score_weight,
        "image_size": list(model.image_size),
        "ignore_mask": model.ignore_mask.size,
        "prompts_sha256": digest(learned, {}),
        "versions": {name: version(name) for name in _PACKAGES},
    }


def write_metadata(path: Path, metadata: dict[str, Any]) -> None:
    """Write the description into an exported file, or beside a torch file."""
    text = json.dumps(metadata)
    if path.suffix == ".onnx":
        import onnx

        model = onnx.load(path, load_external_data=False)
        onnx.helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | {KEY: text})
        atomic_write(path, model.SerializeToString())
    elif path.suffix == ".xml":
        root = ET.parse(path).getroot()  # noqa: S314  # as above
        info = root.find("rt_info")
        info = ET.SubElement(root, "rt_info") if info is None else info
        for old in info.findall(KEY):
            info.remove(old)
        ET.SubElement(ET.SubElement(info, KEY), "metadata", value=text)
        atomic_write(path, ET.tostring(root, xml_declaration=True))
    else:
        atomic_write(path.with_name("metadata.json"), json.dumps(metadata, indent=2).encode())


def copy_with_metadata(source: Path, target: Path, metadata: dict[str, Any]) -> Path:
    """Copy an exported model, with another description; ``ValueError`` if the suffixes differ."""
    if source.suffix != target.suffix:
        msg = f"{target} must end in {source.suffix}, as {source} does."
        raise ValueError(msg)

    def write(folder: Path) -> Path:
        copy = folder / target.name
        if source.suffix == ".onnx":
            import onnx

            model = onnx.load(source)
            outside = Path(f"{source}.data").is_file()  # its name stands in the file
            onnx.save(model, copy, save_as_external_data=outside, location=f"{copy.name}.data" if outside else None)
        else:
            shutil.copyfile(source, copy)
            shutil.copyfile(source.with_suffix(".bin"), copy.with_suffix(".bin"))
        write_metadata(copy, metadata)
        return copy

    return atomic_write_folder(target.parent, write)
