"""Which of the volumes are taken, by rules; everyone that is left out is told why. `rules.py` has their grammar."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, prod

from imaging_pipeline.errors import Code
from imaging_pipeline.intake.attributes import (
    Attribute,
    Candidate,
    Privacy,
    Values,
    figure,
    find_attribute,
    spacing_mm,
)
from imaging_pipeline.intake.rules import Condition, Preference, SelectionRules
from imaging_pipeline.records import SeriesTask, SkippedSeries


@dataclass(frozen=True, slots=True)
class Merit:
    """How good a candidate is in one respect.

    Attributes:
        score: The lower, the better.
        words: As the winner's side of a sentence says it.
        short: As the loser's side says it.
    """

    score: float
    words: str
    short: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A volume that no condition refuses, as others of its study, or subject, are compared with it.

    Attributes:
        series_key: Its name.
        group: Series that compete have one group; those of an unknown study or subject compete with none.
        series_number: Series Number (0020,0011).
        series_uid: Series Instance UID.
        stack: Number of the stack within its series.
        merits: One for each preference.
    """

    series_key: str
    group: tuple[str, ...]
    series_number: int | None
    series_uid: str
    stack: int
    merits: tuple[Merit, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a volume is not taken, and what to do about it."""

    message: str
    hint: str

    def of(self, task: SeriesTask) -> SkippedSeries:
        """The volume as one that is left out."""
        return SkippedSeries(
            identity=task.identity,
            code=Code.NOT_SELECTED,
            message=self.message,
            hint=self.hint,
            verdict=task.verdict,
            findings=task.findings,
        )


def refuse(candidate: Candidate, rules: SelectionRules, model: str) -> Refusal | None:
    """The first condition that a volume breaks; None where it is eligible.

    Args:
        candidate: The volume, with a header that was read with `rules.keywords()`.
        rules: What to take.
        model: Name of the model that the rules belong to.
    """
    required = ((find_attribute(name), condition) for name, condition in rules.require.items())
    excluded = ((find_attribute(name), condition) for name, condition in rules.exclude.items())
    broken = (_broken(condition, attribute, attribute.values(candidate)) for attribute, condition in required)
    hit = (_excluded(condition, attribute, attribute.values(candidate)) for attribute, condition in excluded)
    message = next((text for text in (*broken, *hit) if text), None)
    if message is None:
        return None
    if rules.file:
        return Refusal(f"{rules.file}: {message}", "change the rules in selection.file to take such series")
    return Refusal(f"model {model}: {message}", "choose a model for such series, or --model none for volumes only")


def enter(candidate: Candidate, rules: SelectionRules) -> Contender | None:
    """An eligible volume as it competes with others; None where the rules take all of them."""
    if rules.take != "best":
        return None
    identity = candidate.task.identity
    return Contender(
        series_key=identity.series_key,
        group=_group(candidate, rules.per),
        series_number=identity.series_number,
        series_uid=identity.series_uid,
        stack=identity.stack,
        merits=tuple(_merit(candidate, preference) for preference in rules.prefer),
    )


def compare(contenders: Iterable[Contender], rules: SelectionRules) -> dict[str, Refusal]:
    """Series key to refusal of every contender that another one of its study, or subject, beats."""
    groups: defaultdict[tuple[str, ...], list[Contender]] = defaultdict(list)
    for contender in contenders:
        groups[contender.group].append(contender)
    refusals = {}
    for members in groups.values():
        best = min(members, key=_rank)
        for loser in members:
            if loser is not best:
                message = f"lost to {_name(best, loser)}: {_decisive(best, loser, rules.prefer)}"
                refusals[loser.series_key] = Refusal(
                    message, f"take: all in the rules takes every series of a {rules.per}"
                )
    return refusals


def _broken(condition: Condition, attribute: Attribute, values: Values) -> str:
    """Why values do not meet a condition; empty where they do."""
    form = condition.broken(values)
    if form is None:
        return ""
    if form == "not" and condition.negated is not None:
        return _excluded(condition.negated, attribute, values)
    shown = f"{attribute.title} {attribute.in_words(values)}".rstrip()
    if not values:
        return f"{shown} is absent, {_allowed(condition, attribute)} is taken"
    if form == "matches" and attribute.privacy is not Privacy.PATIENT:
        return f"{shown} does not match /{condition.matches}/"
    if shown == attribute.title:
        shown += " does not fit"
    return f"{shown}, {_allowed(condition, attribute)} is taken"


def _excluded(condition: Condition, attribute: Attribute, values: Values) -> str:
    """That values meet a condition that excludes them; empty where they do not."""
    if condition.broken(values) is not None:
        return ""
    shown = f"{attribute.title} {attribute.in_words(values)}".rstrip() if values else f"absence of {attribute.title}"
    return f"{shown} is excluded ({_allowed(condition, attribute)})"


def _allowed(condition: Condition, attribute: Attribute) -> str:
    """What a condition allows, in words that tell no more of a person than the attribute may."""
    if attribute.privacy is Privacy.PATIENT:
        return "what the rules name"
    words = []
    if condition.listed:
        is_open = attribute.privacy is Privacy.OPEN
        words.append(" or ".join(map(figure, condition.listed)) if is_open else "a listed value")
    if condition.min is not None and condition.max is not None:
        words.append(f"{figure(condition.min)} to {figure(condition.max)}")
    elif condition.min is not None:
        words.append(f"at least {figure(condition.min)}")
    elif condition.max is not None:
        words.append(f"at most {figure(condition.max)}")
    if condition.matches is not None:
        words.append(f"a match of /{condition.matches}/")
    if condition.negated is not None:
        words.append(f"anything but {_allowed(condition.negated, attribute)}")
    return f"{' and '.join(words)} {attribute.unit}".rstrip()


def _group(candidate: Candidate, per: str) -> tuple[str, ...]:
    identity, head = candidate.task.identity, candidate.head
    if per == "subject" and head.patient_id:
        return (identity.subject_key,)
    return (identity.subject_key, identity.session_key if identity.study_uid else identity.series_key)


def _rank(contender: Contender) -> tuple[tuple[float, ...], float, str]:
    number = contender.series_number
    scores = tuple(merit.score for merit in contender.merits)
    return scores, inf if number is None else number, contender.series_key


def _decisive(best: Contender, loser: Contender, preferences: Sequence[Preference]) -> str:
    """The first preference in which two contenders differ."""
    for preference, one, other in zip(preferences, best.merits, loser.merits, strict=True):
        if one.score != other.score:
            return f"{one.words} {_VERBS.get(preference.kind, 'beats')} {other.short}"
    tie = "the lower series number" if best.series_number != loser.series_number else "the lower series key"
    return f"equal in all that is preferred, {tie} is taken"


def _name(best: Contender, loser: Contender) -> str:
    if best.series_number is None:
        return f"series {best.series_key}"
    stack = f" stack {best.stack}" if best.series_uid == loser.series_uid else ""
    key = f" ({best.series_key})" if best.series_number == loser.series_number and not stack else ""
    return f"series {best.series_number}{stack}{key}"


_VERBS = {"thinnest_slices": "beat", "most_slices": "beat"}


def _merit(candidate: Candidate, preference: Preference) -> Merit:
    match preference.kind:
        case "thinnest_slices":
            size = round(max(candidate.head.slice_thickness_mm or 0.0, spacing_mm(candidate)[2]), 2)
            return Merit(size, f"slices of {size} mm", f"{size} mm")
        case "most_slices":
            return Merit(-candidate.task.depth, f"{candidate.task.depth} slices", str(candidate.task.depth))
        case "largest_field_of_view":
            return _field_of_view(candidate)
        case "original":
            original = find_attribute("original").values(candidate)
            words = ("original" if original[0] else "derived") if original else "unknown Image Type"
            return Merit(float(words != "original"), words, words)
        case "newest":
            number = candidate.task.identity.series_number
            return Merit(inf if number is None else -number, f"series number {number}", str(number))
        case "smallest" | "largest":
            return _extreme(candidate, preference)
    return _order(candidate, preference)


def _field_of_view(candidate: Candidate) -> Merit:
    attribute = find_attribute("field_of_view_mm")
    values = attribute.values(candidate)
    volume_ml = prod(value for value in values if isinstance(value, float)) / 1000
    words = attribute.in_words(values)
    return Merit(-round(volume_ml, 1), f"field of view {words}", words)


def _extreme(candidate: Candidate, preference: Preference) -> Merit:
    attribute = find_attribute(preference.attribute)
    values = attribute.values(candidate)
    if not values:
        return Merit(inf, "", "none")
    number = max(value for value in values if isinstance(value, float))
    score, comparative = (number, "smaller") if preference.kind == "smallest" else (-number, "larger")
    words = attribute.in_words((number,))
    if not words:
        return Merit(score, f"the {comparative} {attribute.title}", "another")
    return Merit(score, f"{attribute.title} {words}", words)


def _order(candidate: Candidate, preference: Preference) -> Merit:
    attribute = find_attribute(preference.attribute)
    values = attribute.values(candidate)
    place = next((i for i, item in enumerate(preference.order) if item.broken(values) is None), len(preference.order))
    choice = f"choice {place + 1}" if place < len(preference.order) else "no choice"
    words = attribute.in_words(values)
    short = f"{words} ({choice})" if words else choice
    return Merit(place, f"{attribute.title} {short}", short)
