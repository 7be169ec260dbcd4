"""What a family module states: how a config becomes a spec, and where the checkpoint keeps each weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ranvier.models.sources import Source
from ranvier.models.spec import DecoderSpec

Parts = Mapping[str, Source]
"""Our name within a layer -> the checkpoint's, within the layer and without `.weight`; biases follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One `model_type`.

    `shared` maps our names outside of layers to the checkpoint's, without `.weight`; `layer_prefix` holds `{}` for
    the layer's number. `base` begins the names of all but the head; checkpoints of the bare model leave it out.
    `aliases` gives names under which some checkpoints have what others have under the name that we look for.
    Tensors whose names end in one of `ignored` are buffers that old exports saved. `serves` names published models,
    `limits` what of the family is refused. `gguf_architecture` is its name in GGUF files, where those can be read.
    """

    model_type: str
    serves: str
    spec_from_config: Callable[[Mapping[str, object]], DecoderSpec]
    parts: Callable[[DecoderSpec], Parts]
    shared: Mapping[str, str]
    layer_prefix: str
    base: str
    aliases: Mapping[str, str] = field(default_factory=dict)
    limits: str = ""
    gguf_architecture: str | None = None
    ignored: tuple[str, ...] = ("rotary_emb.inv_freq",)

    def weight_names(self, spec: DecoderSpec) -> dict[str, Source]:
        """Our tensor name -> where the checkpoint has it, for every tensor the decoder needs."""
        shared = {ours: Source(name=theirs) for ours, theirs in self.shared.items()}
        names = {ours: _full(shared, ours, "") for ours in spec.shared_shapes()}
        parts, shapes = self.parts(spec), spec.layer_shapes()
        for layer in range(spec.num_layers):
            prefix = self.layer_prefix.format(layer)
            names |= {f"layers.{layer}.{ours}": _full(parts, ours, prefix) for ours in shapes}
        return names

    def as_saved(self, names: Mapping[str, Source], there: frozenset[str]) -> dict[str, Source]:
        """`weight_names` as a checkpoint with tensors `there` spells them: of the bare model, or under aliases."""
        is_bare = not any(name.startswith(self.base) for name in there)
        return {ours: replace(source, name=self._saved(source.name, there, is_bare)) for ours, source in names.items()}

    def _saved(self, name: str, there: frozenset[str], is_bare: bool) -> str:
        alias = self.aliases.get(name)
        if alias is not None and name not in there and alias in there:
            return alias
        return name.removeprefix(self.base) if is_bare else name

    def is_ignored(self, name: str) -> bool:
        """Whether a checkpoint tensor may be left unread: old buffers, and a tied head that was saved again."""
        return name.endswith(self.ignored) or name == f"{self.shared['head']}.weight"


def _full(sources: Parts, ours: str, prefix: str) -> Source:
    part = ours.removesuffix(".bias")
    source = sources[part]
    if ours == part:
        return replace(source, name=f"{prefix}{source.name}.weight")
    return replace(source, name=f"{prefix}{source.name}.bias", is_transposed=False)
