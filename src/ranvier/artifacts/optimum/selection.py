"""Which cached entry is taken: rules, an order, and on a miss what would have hit.

The rules are those of TGI's Neuron backend (`tgi_env.py`), where each applies only when the value was given, with what
they lacked: target, prompt length, task, architecture. Among entries that pass TGI took the most cores and then the
largest batch. Here the smallest entry that satisfies the request is taken:

1. fewest cores, so none is idle that was not asked for;
2. a batch size that was given: the smallest that is enough. One that was not: the largest, since it costs nothing more;
3. the sequence length likewise.

Entries that are equal in all three tie, and the tie is broken by type (bf16, fp16, fp32), then by sampling on the
device (faster), then by the longer prompt, then by name; the selection lists them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ranvier.artifacts.optimum.config_diff import fill_head_dim
from ranvier.artifacts.optimum.digests import TASK
from ranvier.artifacts.optimum.registry import CacheEntry
from ranvier.artifacts.optimum.wish import Wish, is_same_compiler

_CAST_ORDER = ("bf16", "fp16", "fp32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One rule that an entry fails.

    `field`: what of the entry it is about; `wanted` and `found`: both values, `wanted` with where it was said;
    `distance`: 0 or more, how far off, to compare entries that fail the same rules.
    """

    rule: str
    field: str
    wanted: str
    found: str
    distance: float = 1.0

    @property
    def reason(self) -> str:
        """Both values in one sentence."""
        return f"{self.field} is {self.found}, wanted {self.wanted}"


Rule = Callable[[CacheEntry, Wish], "Difference | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Considered:
    """An entry and the rules it fails; none: it satisfies the request."""

    entry: CacheEntry
    failed: tuple[Difference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The outcome of a look-up.

    * `considered`: every entry, those that satisfy the request first, in order of preference, then the others, nearest
      first. `chosen`: the first of them, or None on a miss.
    * `ties`: other entries with the same cores, batch size and sequence length. `tie_reason`: what decided.
    * `nearest`: on a miss, the entry that fails the fewest rules, then by the least; None where there are none.
    """

    wish: Wish
    considered: tuple[Considered, ...]
    chosen: CacheEntry | None
    ties: tuple[CacheEntry, ...] = ()
    tie_reason: str = ""
    nearest: Considered | None = None

    @property
    def hitting_wish(self) -> Mapping[str, object]:
        """On a miss: the fields of a `Wish` that would select `nearest`; {} where nothing that can be asked would."""
        return hitting_wish(self.wish, self.nearest) if self.nearest else {}

    @property
    def advice(self) -> tuple[str, ...]:
        """On a miss, sentences that say what to do."""
        return advice(self)


def consider(entries: Iterable[CacheEntry], wish: Wish, architecture: Mapping[str, object] | None = None) -> Selection:
    """Hold each entry against the rules and choose. `architecture`: the model's own, None where it is not known."""
    rules = (*RULES, same_architecture(architecture)) if architecture is not None else RULES
    held = [
        Considered(entry=entry, failed=tuple(found for rule in rules if (found := rule(entry, wish))))
        for entry in entries
    ]
    passed = sorted((each for each in held if not each.failed), key=lambda each: _preference(each.entry, wish))
    others = sorted((each for each in held if each.failed), key=lambda each: _remoteness(each, wish))
    if not passed:
        nearest = others[0] if others else None
        return Selection(wish=wish, considered=tuple(others), chosen=None, nearest=nearest)
    chosen = passed[0].entry
    ties = tuple(each.entry for each in passed[1:] if size_order(each.entry, wish) == size_order(chosen, wish))
    return Selection(
        wish=wish,
        considered=(*passed, *others),
        chosen=chosen,
        ties=ties,
        tie_reason=_tie_reason(chosen, ties[0]) if ties else "",
    )


def size_order(entry: CacheEntry, wish: Wish) -> tuple[int, int, int]:
    """The sort key of preference: cores, batch size, sequence length; see the module."""
    config = entry.config
    batch = -config.batch_size if wish.batch_size is None else config.batch_size
    sequence = -config.sequence_length if wish.sequence_length is None else config.sequence_length
    return config.world_size, batch, sequence


_TIE_KEYS: tuple[tuple[str, Callable[[CacheEntry], object]], ...] = (
    ("its type comes first of bf16, fp16, fp32", lambda entry: _CAST_ORDER.index(entry.config.auto_cast_type)),
    ("it samples on the device, which is faster", lambda entry: not entry.config.on_device_sampling),
    ("it takes longer prompts", lambda entry: -entry.config.max_context_length),
    ("its name comes first", lambda entry: entry.digest),
    ("its path comes first", lambda entry: entry.path),
)


def _preference(entry: CacheEntry, wish: Wish) -> tuple[object, ...]:
    return (*size_order(entry, wish), *(key(entry) for _, key in _TIE_KEYS))


def _tie_reason(chosen: CacheEntry, second: CacheEntry) -> str:
    return next((reason for reason, key in _TIE_KEYS if key(chosen) != key(second)), "they are the same")


def _remoteness(each: Considered, wish: Wish) -> tuple[object, ...]:
    distance = sum(difference.distance for difference in each.failed)
    return len(each.failed), distance, *_preference(each.entry, wish)


def task(entry: CacheEntry, wish: Wish) -> Difference | None:
    """The entry is of a model that generates text."""
    if entry.task == TASK:
        return None
    return Difference(rule="task", field="task", wanted=TASK, found=entry.task, distance=100)


def speculation(entry: CacheEntry, wish: Wish) -> Difference | None:
    """The entry has no graph for speculative decoding, which nothing here drives."""
    length = entry.config.speculation_length
    if not length:
        return None
    return Difference(rule="speculation", field="speculation_length", wanted="0", found=str(length), distance=100)


def target(entry: CacheEntry, wish: Wish) -> Difference | None:
    """The entry was compiled for this chip; an entry that does not say counts as right."""
    if wish.target is None or entry.config.target in (None, wish.target):
        return None
    return _difference("target", "target", wish, wish.target, entry.config.target, 10)


def compiler(entry: CacheEntry, wish: Wish) -> Difference | None:
    """The entry was compiled by the compiler that is here."""
    wanted = wish.compiler_version
    if wanted is None or is_same_compiler(entry.config.neuronxcc_version, wanted):
        return None
    return _difference("compiler", "neuronxcc_version", wish, wanted, entry.config.neuronxcc_version, 2)


def optimum(entry: CacheEntry, wish: Wish) -> Difference | None:
    """The entry was exported by the optimum-neuron that is here."""
    wanted, found = wish.optimum_version, entry.config.optimum_neuron_version
    if wanted in (None, found):
        return None
    return _difference("optimum", "optimum_neuron_version", wish, wanted, found, 2)


def cores(entry: CacheEntry, wish: Wish) -> Difference | None:
    """The entry runs on the cores that are here."""
    available, found = wish.available_cores, entry.config.world_size
    if available is None or found <= available:
        return None
    wanted = f"at most {available} ({wish.source('available_cores')})"
    return Difference(
        rule="cores", field="tp_degree", wanted=wanted, found=str(found), distance=_ratio(found, available)
    )


def num_cores(entry: CacheEntry, wish: Wish) -> Difference | None:
    """The entry takes at least the cores that were asked for."""
    return _at_least("num_cores", "tp_degree", entry.config.world_size, wish)


def batch_size(entry: CacheEntry, wish: Wish) -> Difference | None:
    """The entry runs at least as many requests at once."""
    return _at_least("batch_size", "batch_size", entry.config.batch_size, wish)


def sequence_length(entry: CacheEntry, wish: Wish) -> Difference | None:
    """The entry holds sequences that are at least as long."""
    return _at_least("sequence_length", "sequence_length", entry.config.sequence_length, wish)


def input_length(entry: CacheEntry, wish: Wish) -> Difference | None:
    """The entry takes the longest prompt and has room for a token after it."""
    wanted, config = wish.max_input_tokens, entry.config
    if wanted is None:
        return None
    found = min(config.max_context_length, config.sequence_length - 1)
    if wanted <= found:
        return None
    field = "max_context_length" if config.max_context_length < config.sequence_length else "sequence_length"
    text = f"at least {wanted if field == 'max_context_length' else wanted + 1} ({wish.source('max_input_tokens')})"
    value = getattr(config, field)
    return Difference(
        rule="input_length", field=field, wanted=text, found=str(value), distance=_ratio(wanted, max(1, found))
    )


def cast_type(entry: CacheEntry, wish: Wish) -> Difference | None:
    """The entry has this type of weights, activations and KV cache."""
    wanted, found = wish.auto_cast_type, entry.config.auto_cast_type
    if wanted in (None, found):
        return None
    return _difference("auto_cast_type", "torch_dtype", wish, wanted, found, 1)


RULES: tuple[Rule, ...] = (
    task,
    speculation,
    target,
    compiler,
    optimum,
    cores,
    num_cores,
    batch_size,
    sequence_length,
    input_length,
    cast_type,
)
"""In the order in which reasons are given. `same_architecture` comes after them where the model's is known."""


def same_architecture(ours: Mapping[str, object]) -> Rule:
    """Make the rule that an entry, found by the model's name, has the model's architecture."""
    own = _compared(ours)

    def architecture(entry: CacheEntry, wish: Wish) -> Difference | None:
        theirs = _compared(entry.architecture)
        names = sorted(name for name in {*own, *theirs} if _shown(own, name) != _shown(theirs, name))
        if not names:
            return None
        more = f" (and {len(names) - 1} fields more)" if len(names) > 1 else ""
        return Difference(
            rule="architecture",
            field=f"config.json `{names[0]}`",
            wanted=_short(_shown(own, names[0])) + more,
            found=_short(_shown(theirs, names[0])),
            distance=50 + len(names),
        )

    return architecture


def _compared(fields: Mapping[str, object]) -> dict[str, object]:
    """Without `dtype`, which an export sets to its own."""
    kept = dict(fields)
    fill_head_dim(kept)
    kept.pop("dtype", None)
    return kept


def _shown(fields: Mapping[str, object], name: str) -> str:
    """As JSON: what digests compare, so 1 is not 1.0 and keys are texts."""
    return json.dumps(fields[name], sort_keys=True) if name in fields else "absent"


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _difference(rule: str, field: str, wish: Wish, wanted: object, found: object, distance: float) -> Difference:
    source = wish.source(_WISH_FIELDS[rule])
    return Difference(rule=rule, field=field, wanted=f"{wanted} ({source})", found=str(found), distance=distance)


_WISH_FIELDS = {
    "target": "target",
    "compiler": "compiler_version",
    "optimum": "optimum_version",
    "auto_cast_type": "auto_cast_type",
}
"""Rules that compare for equality, and the field of the wish."""


def _at_least(name: str, field: str, found: int, wish: Wish) -> Difference | None:
    wanted = getattr(wish, name)
    if wanted is None or found >= wanted:
        return None
    text = f"at least {wanted} ({wish.source(name)})"
    return Difference(rule=name, field=field, wanted=text, found=str(found), distance=_ratio(wanted, found))


def _ratio(larger: int, smaller: int) -> float:
    """0 for equal numbers, 1 for the double."""
    return larger / smaller - 1


def hitting_wish(wish: Wish, nearest: Considered) -> dict[str, object]:
    """The fields of a wish, as they would have to be for an entry that fails some rules to be taken.

    {} where a rule fails that no request can change: cores that are not there, another task or architecture, another
    chip, compiler or optimum-neuron.
    """
    changeable = {"num_cores", "batch_size", "sequence_length", "input_length", "auto_cast_type"}
    if not {difference.rule for difference in nearest.failed} <= changeable:
        return {}
    config = nearest.entry.config
    values: dict[str, object] = {
        "batch_size": config.batch_size,
        "sequence_length": config.sequence_length,
        "num_cores": config.world_size,
        "auto_cast_type": config.auto_cast_type,
    }
    if wish.max_input_tokens is not None:
        longest = min(config.max_context_length, config.sequence_length - 1)
        values["max_input_tokens"] = min(wish.max_input_tokens, longest)
    return values


def advice(selection: Selection) -> tuple[str, ...]:
    """On a miss, what to do: change the request, the host or the image, or export the model."""
    if selection.chosen is not None:
        return ()
    nearest = selection.nearest
    if nearest is None:
        return ("The repository has no entry of this model: export it on a Neuron host (it may take an hour).",)
    failed = {difference.rule for difference in nearest.failed}
    sentences = [text for rule, text in _ADVICE.items() if rule in failed]
    if "cores" in failed:
        count = nearest.entry.config.num_devices
        flags = " ".join(f"--device=/dev/neuron{index}" for index in range(count))
        sentences.append(f"Take a host with {count} Neuron devices, or expose {count} to the container: {flags}.")
    if selection.hitting_wish:
        sentences.append("Ask for what is cached, as above, or export the model for your values on a Neuron host.")
    else:
        sentences.append("Or export the model for your values on a Neuron host.")
    return tuple(sentences)


_ADVICE = {
    "task": "The entries are of another task.",
    "architecture": "Entries of this name were exported from another config.json; check the model's revision.",
    "target": "Entries are for another chip: take a host of that kind.",
    "compiler": "Take an image with the compiler that made the entries.",
    "optimum": "Take an image with the optimum-neuron that made the entries.",
}
