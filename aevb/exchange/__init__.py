"""Models for other programs: a folder for the Hugging Face hub, graphs for ONNX."""

from aevb.exchange.onnx import export_onnx

__all__ = ["export_onnx"]
