"""A reader of Prometheus' text format 0.0.4, as strict as the tests need it to be."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

Labels = tuple[tuple[str, str], ...]

_SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)="(?P<value>(?:[^"\\\n]|\\[\\"n])*)"(?:,|$)')
_ESCAPE = re.compile(r"\\(.)")


@dataclass
class Family:
    """One metric: its type and its samples, keyed by the rest of their name (`_bucket` …) and their labels."""

    kind: str
    help_text: str
    samples: dict[tuple[str, Labels], float] = field(default_factory=dict)

    def value(self, suffix: str = "", **labels: str) -> float:
        """One sample."""
        return self.samples[suffix, tuple(labels.items())]

    def bounds(self, **labels: str) -> list[float]:
        """The bounds of a histogram's buckets, the last is infinity."""
        return [float(bound) for bound in self._buckets(labels)]

    def counts(self, **labels: str) -> list[float]:
        """Observations at or below each bound."""
        return list(self._buckets(labels).values())

    def quantiles(self) -> dict[str, float]:
        """The values of a summary without other labels, by quantile as written."""
        return {labels[0][1]: value for (suffix, labels), value in self.samples.items() if suffix == ""}

    def label_values(self, name: str) -> set[str]:
        """The values that a label has in any sample."""
        return {value for _, labels in self.samples for label, value in labels if label == name}

    def _buckets(self, labels: dict[str, str]) -> dict[str, float]:
        own = tuple(labels.items())
        return {
            dict(found)["le"]: value
            for (suffix, found), value in self.samples.items()
            if suffix == "_bucket" and found[:-1] == own
        }


def parse(text: str) -> dict[str, Family]:
    """Families by name. Fails on lines out of place and on samples given twice."""
    families: dict[str, Family] = {}
    assert not text or text.endswith("\n")
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("# HELP "):
            name, help_text = line.removeprefix("# HELP ").split(" ", 1)
            kind = next(lines).removeprefix(f"# TYPE {name} ")
            assert kind in _SUFFIXES, kind
            assert name not in families, f"{name} comes twice"
            families[name] = Family(kind, help_text)
        else:
            _add(families[name], name, line)
    for name, family in families.items():
        assert family.samples, f"{name} has no samples"
        if family.kind == "histogram":
            _check_histogram(name, family)
    return families


def _add(family: Family, name: str, line: str) -> None:
    match = _SAMPLE.fullmatch(line)
    assert match, line
    suffix = match["name"].removeprefix(name)
    assert match["name"].startswith(name) and suffix in _SUFFIXES[family.kind], line
    key = (suffix, _labels(match["labels"] or ""))
    assert key not in family.samples, f"{line} comes twice"
    family.samples[key] = float(match["value"])


_SUFFIXES = {
    "counter": {""},
    "gauge": {""},
    "histogram": {"_bucket", "_sum", "_count"},
    "summary": {"", "_sum", "_count"},
}


def _labels(text: str) -> Labels:
    labels, end = [], 0
    for match in _LABEL.finditer(text):
        assert match.start() == end, text
        end = match.end()
        labels.append((match["name"], _ESCAPE.sub(lambda each: "\n" if each[1] == "n" else each[1], match["value"])))
    assert end == len(text), text
    return tuple(labels)


def _check_histogram(name: str, family: Family) -> None:
    for suffix, labels in family.samples:
        if suffix == "_count":
            own = dict(labels)
            bounds, counts = family.bounds(**own), family.counts(**own)
            assert bounds == sorted(set(bounds)) and bounds[-1] == float("inf"), f"{name}: bounds {bounds}"
            assert counts == sorted(counts), f"{name}: counts {counts}"
            assert counts[-1] == family.value("_count", **own), f"{name}: its count is not that of its last bucket"
            assert ("_sum", labels) in family.samples, f"{name} has no sum"
