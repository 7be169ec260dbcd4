"""What a look-up found, for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ranvier.artifacts.optimum.config import FLOAT_NAMES
from ranvier.artifacts.optimum.registry import BadEntry, CacheEntry
from ranvier.artifacts.optimum.selection import Considered, Selection

NO_PROOF = (
    "An entry says that the model was exported so once. Whether each compiled graph is found is decided when it is "
    "loaded: the hash of the graph, which depends on every library's version, must be the same."
)
_OPTIONS = {
    "batch_size": "MAX_BATCH_SIZE",
    "sequence_length": "MAX_TOTAL_TOKENS",
    "max_input_tokens": "MAX_INPUT_TOKENS",
    "num_cores": "HF_NUM_CORES",
    "auto_cast_type": "HF_AUTO_CAST_TYPE",
}
_CONTEXT = ("target", "available_cores", "compiler_version", "optimum_version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """A look-up from end to end.

    `places`: for each repository its name and how many entries it had. `folders`: those looked in, below each registry.
    `bad`: files that are no entries of language models. `notes`: sentences for the reader.
    """

    model: str
    places: tuple[tuple[str, int], ...]
    folders: tuple[str, ...]
    selection: Selection
    bad: tuple[BadEntry, ...] = ()
    notes: tuple[str, ...] = ()


def lookup_text(lookup: Lookup) -> str:
    """Every entry considered and why it was or was not taken; on a miss what would have hit."""
    selection = lookup.selection
    lines = [
        f"model     {lookup.model}",
        *(f"looked in {name}: {_count(count, 'entry', 'entries')}" for name, count in lookup.places),
        *(f"          {folder}/" for folder in lookup.folders),
        f"asked for {_asked(selection)}",
        f"host      {_context(selection)}",
        "",
        *(line for each in selection.considered for line in _entry_lines(each, selection)),
        *(f"unread    {each.path}\n            {each.reason}" for each in lookup.bad),
        *([""] if selection.considered or lookup.bad else []),
        *(_hit_lines(selection) if selection.chosen else _miss_lines(selection)),
        *([] if selection.chosen else [f"export    {export_command(lookup)}"]),
        *(f"note: {note}" for note in lookup.notes),
    ]
    return "\n".join(lines) + "\n"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _asked(selection: Selection) -> str:
    wish = selection.wish
    given = {name: getattr(wish, name) for name in _OPTIONS if getattr(wish, name) is not None}
    return (
        ", ".join(f"{name} {value} ({wish.source(name)})" for name, value in given.items()) or "nothing in particular"
    )


def _context(selection: Selection) -> str:
    wish = selection.wish
    given = {name: getattr(wish, name) for name in _CONTEXT if getattr(wish, name) is not None}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in given.items()) or "not known"


def describe_entry(entry: CacheEntry) -> str:
    """One line: shape, type, chip, versions."""
    config = entry.config
    parts = [
        f"tp {config.world_size}",
        f"batch {config.batch_size}",
        f"sequence {config.sequence_length}",
        f"prompt {config.max_context_length}",
        config.auto_cast_type,
        config.target or "any target",
        "sampling on device" if config.on_device_sampling else "logits to host",
    ]
    versions = f"neuronx-cc {config.neuronxcc_version}, optimum-neuron {config.optimum_neuron_version}"
    return f"{', '.join(parts)} [{versions}]"


def _entry_lines(each: Considered, selection: Selection) -> list[str]:
    verdict = "taken    " if each.entry is selection.chosen else "not taken"
    lines = [f"{verdict} {describe_entry(each.entry)}", f"            {each.entry.repository}: {each.entry.path}"]
    lines += [f"            {difference.rule}: {difference.reason}" for difference in each.failed]
    if not each.failed and each.entry is not selection.chosen:
        why = "equal in size; see below" if each.entry in selection.ties else "it fits, but another is preferred"
        lines.append(f"            {why}")
    if not each.entry.is_intact:
        lines.append("            warning: the file's name is not the digest of its text")
    return lines


def _hit_lines(selection: Selection) -> list[str]:
    values = values_of(selection)
    lines = ["hit: fewest cores first; then the smallest batch and sequence that were asked for, the largest if not"]
    if selection.ties:
        others = ", ".join(entry.digest for entry in selection.ties)
        lines.append(f"tie with {others}: taken because {selection.tie_reason}")
    return [*lines, "serve with " + " ".join(f"{name}={value}" for name, value in values.items()), f"note: {NO_PROOF}"]


def values_of(selection: Selection) -> dict[str, object]:
    """The environment that asks for the chosen entry exactly; {} on a miss."""
    if selection.chosen is None:
        return {}
    config = selection.chosen.config
    return {
        "MAX_BATCH_SIZE": config.batch_size,
        "MAX_TOTAL_TOKENS": config.sequence_length,
        "HF_NUM_CORES": config.world_size,
        "HF_AUTO_CAST_TYPE": config.auto_cast_type,
    }


def _miss_lines(selection: Selection) -> list[str]:
    lines = ["miss: no entry satisfies the request"]
    if selection.nearest is not None:
        lines += [f"nearest   {describe_entry(selection.nearest.entry)}"]
        lines += [f"  differs in {each.field}: {each.found}, wanted {each.wanted}" for each in selection.nearest.failed]
    if selection.hitting_wish:
        lines.append("would hit " + " ".join(f"{name}={value}" for name, value in _named(selection.hitting_wish)))
    return [*lines, *(f"advice: {sentence}" for sentence in selection.advice)]


def export_command(lookup: Lookup) -> str:
    """The command that exports a model for what was asked; what was not asked is as in the nearest entry.

    Source: optimum-neuron 0.4.5, `optimum/commands/export/neuronx.py`. It needs a Neuron host with that package.
    """
    wish, nearest = lookup.selection.wish, lookup.selection.nearest
    config = nearest.entry.config if nearest else None
    values = {
        "batch_size": wish.batch_size or (config.batch_size if config else None),
        "sequence_length": wish.sequence_length or (config.sequence_length if config else None),
        "tensor_parallel_size": wish.num_cores or wish.available_cores or (config.tp_degree if config else None),
        "torch_dtype": FLOAT_NAMES[wish.auto_cast_type] if wish.auto_cast_type else None,
    }
    flags = " ".join(f"--{name} {value}" for name, value in values.items() if value is not None)
    return f"optimum-cli export neuron --model {lookup.model} --task text-generation {flags} DIRECTORY".replace(
        "  ", " "
    )


def _named(wish: Mapping[str, object]) -> list[tuple[str, object]]:
    return [(_OPTIONS[name], value) for name, value in wish.items()]


def lookup_json(lookup: Lookup) -> dict[str, object]:
    """The same as `lookup_text`, as values."""
    selection = lookup.selection
    nearest = selection.nearest
    return {
        "model": lookup.model,
        "hit": selection.chosen is not None,
        "looked_in": [{"repository": name, "entries": count} for name, count in lookup.places],
        "folders": list(lookup.folders),
        "asked": _wish_json(selection, _OPTIONS),
        "host": _wish_json(selection, _CONTEXT),
        "entries": [_considered_json(each, each.entry is selection.chosen) for each in selection.considered],
        "unread": [{"repository": each.repository, "path": each.path, "reason": each.reason} for each in lookup.bad],
        "ties": [entry.path for entry in selection.ties],
        "tie_reason": selection.tie_reason or None,
        "environment": values_of(selection),
        "nearest": _considered_json(nearest, False) if nearest else None,
        "would_hit": dict(_named(selection.hitting_wish)),
        "advice": list(selection.advice),
        "export": None if selection.chosen else export_command(lookup),
        "notes": list(lookup.notes),
    }


def _wish_json(selection: Selection, names: Sequence[str] | Mapping[str, str]) -> dict[str, object]:
    wish = selection.wish
    return {
        name: {"value": getattr(wish, name), "source": wish.sources.get(name)}
        for name in names
        if getattr(wish, name) is not None
    }


def _considered_json(each: Considered, is_taken: bool) -> dict[str, object]:
    config = each.entry.config
    return {
        "taken": is_taken,
        "repository": each.entry.repository,
        "path": each.entry.path,
        "model_id": each.entry.model_id,
        "num_cores": config.world_size,
        "batch_size": config.batch_size,
        "sequence_length": config.sequence_length,
        "max_context_length": config.max_context_length,
        "auto_cast_type": config.auto_cast_type,
        "target": config.target,
        "on_device_sampling": config.on_device_sampling,
        "neuronxcc_version": config.neuronxcc_version,
        "optimum_neuron_version": config.optimum_neuron_version,
        "intact": each.entry.is_intact,
        "failed": [
            {"rule": rule.rule, "field": rule.field, "wanted": rule.wanted, "found": rule.found} for rule in each.failed
        ],
    }
