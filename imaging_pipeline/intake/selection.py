"""Which of the volumes are taken, by rules; everyone that is left out is told why. `rules.py` has their grammar."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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
from imaging_pipeline.records import SeriesTask, SkippedSeries, SliceHeader


def select(
    tasks: Iterable[SeriesTask], heads: Mapping[str, SliceHeader], rules: SelectionRules, model: str
) -> tuple[list[SeriesTask], list[SkippedSeries]]:
    """Volumes that the rules take, in the order given, and the others with the reason of each.

    Args:
        tasks: Volumes.
        heads: Series key to a header of each volume, read with `rules.keywords()`.
        rules: What to take.
        model: Name of the model that the rules belong to.
    """
    candidates = [Candidate(task=task, head=heads[task.identity.series_key]) for task in tasks]
    refusals = {_key(candidate): _refusal(candidate, rules, model) for candidate in candidates}
    if rules.take == "best":
        eligible = [candidate for candidate in candidates if refusals[_key(candidate)] is None]
        refusals |= _losers(eligible, rules)
    refused = ((candidate.task, refusals[_key(candidate)]) for candidate in candidates)
    return (
        [candidate.task for candidate in candidates if refusals[_key(candidate)] is None],
        [_skipped(task, reason) for task, reason in refused if reason is not None],
    )


@dataclass(frozen=True, slots=True)
class _Reason:
    message: str
    hint: str


def _key(candidate: Candidate) -> str:
    return candidate.task.identity.series_key


def _skipped(task: SeriesTask, reason: _Reason) -> SkippedSeries:
    return SkippedSeries(
        identity=task.identity,
        code=Code.NOT_SELECTED,
        message=reason.message,
        hint=reason.hint,
        verdict=task.verdict,
        findings=task.findings,
    )


def _refusal(candidate: Candidate, rules: SelectionRules, model: str) -> _Reason | None:
    """The first condition that a volume breaks."""
    required = ((find_attribute(name), condition) for name, condition in rules.require.items())
    excluded = ((find_attribute(name), condition) for name, condition in rules.exclude.items())
    broken = (_broken(condition, attribute, attribute.values(candidate)) for attribute, condition in required)
    hit = (_excluded(condition, attribute, attribute.values(candidate)) for attribute, condition in excluded)
    message = next((text for text in (*broken, *hit) if text), None)
    if message is None:
        return None
    if rules.file:
        return _Reason(f"{rules.file}: {message}", "change the rules in selection.file to take such series")
    return _Reason(f"model {model}: {message}", "choose a model for such series, or --model none for volumes only")


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


def _losers(candidates: Sequence[Candidate], rules: SelectionRules) -> dict[str, _Reason]:
    """Series key to reason of every candidate that another one of its study, or subject, beats."""
    groups: defaultdict[tuple[str, ...], list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        groups[_group(candidate, rules.per)].append(candidate)
    reasons = {}
    for members in groups.values():
        best = min(members, key=lambda candidate: _rank(candidate, rules.prefer))
        for loser in members:
            if loser is not best:
                message = f"lost to {_name(best, loser)}: {_decisive(best, loser, rules.prefer)}"
                reasons[_key(loser)] = _Reason(message, f"take: all in the rules takes every series of a {rules.per}")
    return reasons


def _group(candidate: Candidate, per: str) -> tuple[str, ...]:
    """Series that compete have one group; those of an unknown study or subject compete with none."""
    identity, head = candidate.task.identity, candidate.head
    if per == "subject" and head.patient_id:
        return (identity.subject_key,)
    return (identity.subject_key, identity.session_key if identity.study_uid else identity.series_key)


def _rank(candidate: Candidate, preferences: Sequence[Preference]) -> tuple[tuple[float, ...], float, str]:
    number = candidate.task.identity.series_number
    scores = tuple(_merit(candidate, preference).score for preference in preferences)
    return scores, inf if number is None else number, _key(candidate)


def _decisive(best: Candidate, loser: Candidate, preferences: Sequence[Preference]) -> str:
    """The first preference in which two candidates differ."""
    for preference in preferences:
        one, other = _merit(best, preference), _merit(loser, preference)
        if one.score != other.score:
            return f"{one.words} {_VERBS.get(preference.kind, 'beats')} {other.short}"
    numbers = [candidate.task.identity.series_number for candidate in (best, loser)]
    tie = "the lower series number" if numbers[0] != numbers[1] else "the lower series key"
    return f"equal in all that is preferred, {tie} is taken"


def _name(best: Candidate, loser: Candidate) -> str:
    one, other = best.task.identity, loser.task.identity
    if one.series_number is None:
        return f"series {one.series_key}"
    stack = f" stack {one.stack}" if one.series_uid == other.series_uid else ""
    key = f" ({one.series_key})" if one.series_number == other.series_number and not stack else ""
    return f"series {one.series_number}{stack}{key}"


@dataclass(frozen=True, slots=True)
class _Merit:
    """How good a candidate is in one respect.

    Attributes:
        score: The lower, the better.
        words: As the winner's side of a sentence says it.
        short: As the loser's side says it.
    """

    score: float
    words: str
    short: str


_VERBS = {"thinnest_slices": "beat", "most_slices": "beat"}


def _merit(candidate: Candidate, preference: Preference) -> _Merit:
    match preference.kind:
        case "thinnest_slices":
            size = round(max(candidate.head.slice_thickness_mm or 0.0, spacing_mm(candidate)[2]), 2)
            return _Merit(size, f"slices of {size} mm", f"{size} mm")
        case "most_slices":
            return _Merit(-candidate.task.depth, f"{candidate.task.depth} slices", str(candidate.task.depth))
        case "largest_field_of_view":
            return _field_of_view(candidate)
        case "original":
            original = find_attribute("original").values(candidate)
            words = ("original" if original[0] else "derived") if original else "unknown Image Type"
            return _Merit(float(words != "original"), words, words)
        case "newest":
            number = candidate.task.identity.series_number
            return _Merit(inf if number is None else -number, f"series number {number}", str(number))
        case "smallest" | "largest":
            return _extreme(candidate, preference)
    return _order(candidate, preference)


def _field_of_view(candidate: Candidate) -> _Merit:
    attribute = find_attribute("field_of_view_mm")
    values = attribute.values(candidate)
    volume_ml = prod(value for value in values if isinstance(value, float)) / 1000
    words = attribute.in_words(values)
    return _Merit(-round(volume_ml, 1), f"field of view {words}", words)


def _extreme(candidate: Candidate, preference: Preference) -> _Merit:
    attribute = find_attribute(preference.attribute)
    values = attribute.values(candidate)
    if not values:
        return _Merit(inf, "", "none")
    number = max(value for value in values if isinstance(value, float))
    score, comparative = (number, "smaller") if preference.kind == "smallest" else (-number, "larger")
    words = attribute.in_words((number,))
    if not words:
        return _Merit(score, f"the {comparative} {attribute.title}", "another")
    return _Merit(score, f"{attribute.title} {words}", words)


def _order(candidate: Candidate, preference: Preference) -> _Merit:
    attribute = find_attribute(preference.attribute)
    values = attribute.values(candidate)
    place = next((i for i, item in enumerate(preference.order) if item.broken(values) is None), len(preference.order))
    choice = f"choice {place + 1}" if place < len(preference.order) else "no choice"
    words = attribute.in_words(values)
    short = f"{words} ({choice})" if words else choice
    return _Merit(place, f"{attribute.title} {short}", short)
