r"""The rules by which series are selected: the content of a model's `selection.yaml`, or of `selection.file`.

A file with everything in it; each of its five keys may be absent::

    require:                                   # conditions, all of which must hold
      modality: CT                             # a value: equals
      ConvolutionKernel: {in: [B30f, STANDARD]}
      slice_spacing_mm: {min: 0.5, max: 3}     # either end may be absent; both belong to the range
      SeriesDescription: {matches: thorax|chest}
      BodyPartExamined: {not: HEAD}            # a condition of any form behind it
    exclude:                                   # conditions, none of which may hold
      SeriesDescription: {matches: lung|bone}
    take: best                                 # or all, which is the default
    per: study                                 # best of each study (the default), or of each subject
    prefer:                                    # the first one in which two candidates differ decides
      - original
      - ConvolutionKernel: [B30f, {matches: ^B3}, STANDARD]
      - thinnest_slices

Attributes:
    modality, original (yes or no, by Image Type), orientation (axial, sagittal, coronal; oblique where the slices'
    normal leaves the patient's axes by more than 30 degrees), n_slices, n_voxels, slice_spacing_mm,
    pixel_spacing_mm (columns, rows), spacing_mm and field_of_view_mm (columns, rows, slices), and any DICOM attribute
    of text or numbers by its keyword. It is read of one plane of the series, and of an Enhanced instance at the top
    level only. A date or a time of day counts by its digits (20240131), an age in years.
Conditions:
    Several forms in one mapping must all hold. Numbers: every one of several values must meet the condition. Text:
    one of several values, or all of them joined by a backslash; upper and lower case are the same; `matches` is a
    regular expression that is searched for anywhere. An attribute that is absent meets no condition but `not`.
Preferences:
    thinnest_slices (the larger of Slice Thickness and slice spacing counts), most_slices, largest_field_of_view (by
    volume), original, newest (highest Series Number), `smallest: NAME`, `largest: NAME` (of several values the
    largest counts), and `NAME: [condition, ...]`, the earliest condition that holds being the best. What no
    preference decides, the lowest Series Number does, then the series key.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PlainValidator,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.intake.attributes import Attribute, Kind, Value, Values, figure, find_attribute

PREFERENCES = ("thinnest_slices", "most_slices", "largest_field_of_view", "original", "newest")
"""Preferences that are a name alone."""
EXTREMES = ("smallest", "largest")
"""Preferences that take the name of a number."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _literal(value: Any) -> Value:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    raise ValueError(f"{value} is neither text, a number, nor yes or no: write text in quotes")


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return text


Form = Literal["listed", "range", "matches", "not"]
_Literal = Annotated[Value, PlainValidator(_literal)]


class Condition(_Strict):
    """What the values of one attribute must be; every form that is given must hold."""

    equals: _Literal | None = None
    one_of: Annotated[tuple[_Literal, ...], Field(min_length=1)] | None = Field(None, alias="in")
    min: FiniteFloat | None = None
    max: FiniteFloat | None = None
    matches: Annotated[str, AfterValidator(_pattern)] | None = None
    negated: "Condition | None" = Field(None, alias="not")

    @model_validator(mode="before")
    @classmethod
    def _from_value(cls, content: Any) -> Any:
        if isinstance(content, list):
            raise ValueError("a list is no condition: write {in: [...]}")  # noqa: TRY004 - pydantic wants ValueError
        return content if isinstance(content, Mapping) else {"equals": _literal(content)}

    @model_validator(mode="after")
    def _has_sense(self) -> Self:
        if all(getattr(self, name) is None for name in type(self).model_fields):
            raise ValueError(f"asks for nothing; known here: {', '.join(_keys(Condition))}")
        if self.equals is not None and self.one_of is not None:
            raise ValueError("equals and in exclude each other")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"no number lies between min {self.min:g} and max {self.max:g}")
        return self

    @property
    def listed(self) -> tuple[Value, ...]:
        """The values that it names."""
        return self.one_of or (() if self.equals is None else (self.equals,))

    def check(self, attribute: Attribute) -> None:
        """Refuse what an attribute of this kind can never meet.

        Raises:
            ValueError: It cannot.
        """
        name, kind = attribute.name, attribute.kind
        if kind is not Kind.NUMBER and (self.min is not None or self.max is not None):
            raise ValueError(f"{name} is no number: min and max do not apply")
        if kind is not Kind.TEXT and self.matches is not None:
            raise ValueError(f"{name} is no text: matches does not apply")
        for literal in self.listed:
            _check_literal(literal, attribute)
        if self.negated is not None:
            self.negated.check(attribute)

    def broken(self, values: Values) -> Form | None:
        """The first of its forms that the values of an attribute do not meet."""
        if self.listed and not _is_listed(values, self.listed):
            return "listed"
        if not (self.min is None and self.max is None) and not self._spans(values):
            return "range"
        if self.matches is not None and not (values and re.search(self.matches, joined(values), re.IGNORECASE)):
            return "matches"
        return "not" if self.negated is not None and self.negated.broken(values) is None else None

    def _spans(self, values: Values) -> bool:
        low = -math.inf if self.min is None else self.min
        high = math.inf if self.max is None else self.max
        return bool(values) and all(not isinstance(value, str) and low <= value <= high for value in values)


def joined(values: Values) -> str:
    """Several values as DICOM writes them."""
    return "\\".join(map(figure, values))


def _check_literal(literal: Value, attribute: Attribute) -> None:
    fits = {
        Kind.NUMBER: not isinstance(literal, bool | str),
        Kind.TEXT: not isinstance(literal, bool),
        Kind.FLAG: isinstance(literal, bool),
    }
    if not fits[attribute.kind]:
        what = {Kind.NUMBER: "a number", Kind.TEXT: "text (quote it)", Kind.FLAG: "yes or no"}[attribute.kind]
        raise ValueError(f"{attribute.name} is {what}, not {figure(literal)!r}")
    if attribute.choices and literal not in attribute.choices:
        raise ValueError(f"{attribute.name} is never {literal!r}; known: {', '.join(attribute.choices)}")


def _is_listed(values: Values, literals: Values) -> bool:
    """One text of several (or all of them joined), or every number of several, is among the literals."""
    if values and isinstance(values[0], str):
        wanted = {figure(literal).strip().casefold() for literal in literals}
        return any(figure(text).casefold() in wanted for text in (*values, joined(values)))
    return bool(values) and all(any(_equal(value, literal) for literal in literals) for value in values)


def _equal(one: Value, other: Value) -> bool:
    return not isinstance(one, str) and not isinstance(other, str) and math.isclose(one, other, rel_tol=1e-6)


def _name(name: str) -> str:
    find_attribute(name)
    return name


_Name = Annotated[str, AfterValidator(_name)]
_Conditions = dict[_Name, Condition]


class Preference(_Strict):
    """One way to rank candidates: a name alone, an extreme of a number, or an attribute's values in order.

    Attributes:
        kind: One of `PREFERENCES` or `EXTREMES`, or `order`.
        attribute: What `EXTREMES` and `order` look at.
        order: Conditions, the best first.
    """

    kind: str
    attribute: str = ""
    order: tuple[Condition, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, content: Any) -> Any:
        if isinstance(content, str) and content in PREFERENCES:
            return {"kind": content}
        if isinstance(content, str) or not isinstance(content, Mapping) or len(content) != 1:
            known = f"{', '.join(PREFERENCES)}, smallest: NAME, largest: NAME, NAME: [condition, ...]"
            raise ValueError(f"{content!r} is no preference; known: {known}")
        ((name, value),) = content.items()
        if name in EXTREMES:
            return {"kind": name, "attribute": value}
        return {"kind": "order", "attribute": name, "order": value if isinstance(value, list) else [value]}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.attribute or self.kind not in PREFERENCES:
            attribute = find_attribute(self.attribute)
            if self.kind in EXTREMES and attribute.kind is not Kind.NUMBER:
                raise ValueError(f"{attribute.name} is no number: {self.kind} does not apply")
            for condition in self.order:
                condition.check(attribute)
        if self.kind == "order" and not self.order:
            raise ValueError(f"{self.attribute}: an empty list prefers nothing")
        return self


class SelectionRules(_Strict):
    """Which volumes are taken; without any rule all of them are."""

    require: _Conditions = Field(default_factory=dict)
    exclude: _Conditions = Field(default_factory=dict)
    prefer: tuple[Preference, ...] = ()
    take: Literal["all", "best"] = "all"
    per: Literal["study", "subject"] = "study"
    _file: str = PrivateAttr("")

    @field_validator("require", "exclude")
    @classmethod
    def _fit(cls, conditions: _Conditions) -> _Conditions:
        for name, condition in conditions.items():
            condition.check(find_attribute(name))
        return conditions

    @model_validator(mode="after")
    def _has_sense(self) -> Self:
        if self.prefer and self.take == "all":
            raise ValueError("prefer ranks candidates, but take: all takes every one: write take: best")
        return self

    def model_post_init(self, context: Any) -> None:
        """Keep the name of the file that took the place of the model's rules."""
        self._file = context or ""

    @property
    def file(self) -> str:
        """Name of the file that took the place of the model's rules; empty for these."""
        return self._file

    def keywords(self) -> frozenset[str]:
        """DICOM keywords that headers must be read with, beyond what is read anyway."""
        names = (*self.require, *self.exclude, *(item.attribute for item in self.prefer if item.attribute))
        return frozenset(find_attribute(name).keyword for name in names) - {""}


def read_rules(own: Path | None, override: Path | None = None) -> SelectionRules:
    """The rules of a run; without a file every volume is taken.

    Args:
        own: The model's selection.yaml.
        override: A file that takes its place.

    Raises:
        PipelineError: `model-invalid` (`settings-invalid` for an override) for a file that cannot be read or that
            holds anything but known rules.
    """
    path, code = (own, Code.MODEL_INVALID) if override is None else (override, Code.SETTINGS_INVALID)
    if path is None:
        return SelectionRules()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        name = "" if override is None else path.name
        return SelectionRules.model_validate({} if content is None else content, context=name)
    except ValidationError as error:
        message = "; ".join(_explain(item) for item in error.errors())
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        message = f"is no YAML: {' '.join(str(error).split())}"
    raise PipelineError(code, f"{path}: {message}", "correct the selection rules") from None


def _explain(item: Any) -> str:
    """One sentence for one pydantic error: place in the YAML, what is wrong, what is allowed."""
    place = [str(part) for part in item["loc"] if part not in ("[key]", "order")]
    path = ".".join(place)
    if item["type"] == "extra_forbidden":
        model = SelectionRules if len(place) == 1 else Condition
        return f"unknown key {path}; known here: {', '.join(_keys(model))}"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path} = {item['input']!r}: {message}"


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]
