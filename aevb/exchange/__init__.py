"""Models for other programs: a folder for the Hugging Face hub, graphs for ONNX."""

from aevb.exchange.card import Card
from aevb.exchange.hub import export_hub, hub_of_run
from aevb.exchange.onnx import export_onnx

__all__ = ["Card", "export_hub", "export_onnx", "hub_of_run"]
