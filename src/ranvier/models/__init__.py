"""What a decoder is, which checkpoints describe one, and how weights are read, rounded and packed."""

from ranvier.models.adapters import Adapter, load_adapter
from ranvier.models.checkpoint import Checkpoint, DequantizedCheckpoint, SafetensorsCheckpoint, read_json
from ranvier.models.families import refused_families, spec_of, supported_families
from ranvier.models.packing import PackedWeights, WeightPlan, held_weights, write_weights
from ranvier.models.spec import DecoderSpec

__all__ = [
    "Adapter",
    "Checkpoint",
    "DecoderSpec",
    "DequantizedCheckpoint",
    "PackedWeights",
    "SafetensorsCheckpoint",
    "WeightPlan",
    "held_weights",
    "load_adapter",
    "read_json",
    "refused_families",
    "spec_of",
    "supported_families",
    "write_weights",
]
