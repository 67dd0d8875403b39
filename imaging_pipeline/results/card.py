"""What a RESULTS keeps of the models that it was made by, for people who do not have them."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from imaging_pipeline.results.colours import colours_of
from imaging_pipeline.results.layout import label_of
from imaging_pipeline.results.publish import publish_json
from imaging_pipeline.segment.bundle import Bundle
from imaging_pipeline.segment.metadata import METADATA
from imaging_pipeline.stores import Store

_TEXTS = ("task", "description", "intended_use", "data_source", "authors", "license")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A model in few words.

    Attributes:
        name: Of the model.
        version: Of the bundle.
        digest: SHA-256 over all that can change a mask.
        labels: Name of each label and its colour in pictures, by number.
        texts: What its metadata says of itself: task, description, intended use, data, authors, licence.
        metrics: Figures that its makers give.
    """

    name: str
    version: str
    digest: str
    labels: dict[int, tuple[str, str]]
    texts: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


def write_card(out: Store, bundle: Bundle) -> None:
    """Write the card of a model into RESULTS.

    Raises:
        PipelineError: `write-failed`.
    """
    publish_json(out, _path(bundle.name), asdict(_card(bundle)))


def read_card(out: Store, model: str) -> Card | None:
    """The card of a model; None where there is none that can be read."""
    try:
        return TypeAdapter(Card).validate_json(out.read(_path(model)))
    except (OSError, ValidationError):
        return None


def _card(bundle: Bundle) -> Card:
    content: dict[str, Any] = {}
    if (bundle.path / METADATA).is_file():  # nnU-Net's models have none
        content = json.loads((bundle.path / METADATA).read_text(encoding="utf-8"))
    metrics = content.get("eval_metrics")
    figures = metrics.items() if isinstance(metrics, dict) else ()
    colours = colours_of(bundle.labels)
    return Card(
        name=bundle.name,
        version=bundle.version,
        digest=bundle.digest,
        labels={label.index: (label.name, colours[label.index]) for label in bundle.labels},
        texts={name: str(content[name]) for name in _TEXTS if content.get(name)},
        metrics={str(name): float(value) for name, value in figures if isinstance(value, int | float)},
    )


def _path(model: str) -> str:
    return f"seg-{label_of(model)}_card.json"
