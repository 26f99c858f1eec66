"""File formats of other programs: openpilot contracts, ONNX, tinygrad, verification."""
