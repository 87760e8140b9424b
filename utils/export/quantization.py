"""8-bit files: convolutions quantized after calibration on images, attention's softmax and products left in float.

Softmax is left out since its range 0..1 makes an 8-bit weight of a wide map 0, and the decoding since pixels and scores
in one tensor would share a scale. Activations and weights are unsigned: signed pairs saturate without VNNI.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.export.exporters import quiet_exporters
from utils.log import progress
from utils.runtimes.metadata import INPUT
from utils.runtimes.packages import require


def quantize_onnx(model: Any, images: Sequence[np.ndarray]) -> Any:
    """Return an `onnx.ModelProto` whose convolutions compute with 8-bit integers, statically quantized (QDQ).

    Args:
        model: The float model.
        images: Calibration images (3, H, W) float32 in 0..1, all of one size; one is a batch.

    Returns:
        The quantized model.
    """
    require("onnx", "onnxruntime")
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, quiet_exporters():
        plain, prepared, output = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "int8"))
        onnx.save(model, plain)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            output,
            _reader(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QUInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(output)


def quantize_openvino(model: Any, images: Sequence[np.ndarray]) -> Any:
    """Return an OpenVINO model quantized by NNCF, its attention left in float.

    Args:
        model: The float model.
        images: Calibration images (3, H, W) float32 in 0..1.

    Returns:
        The quantized model.
    """
    require("nncf")
    import nncf

    dataset = nncf.Dataset(list(images), lambda image: image[None])
    return nncf.quantize(model, dataset, subset_size=len(images), model_type=nncf.ModelType.TRANSFORMER)


def _reader(images: Sequence[np.ndarray]) -> Any:
    """Return images as onnxruntime's calibration reads them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = iter(progress(images, description="calibrating"))

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {INPUT: image[None]}

    return Reader()
