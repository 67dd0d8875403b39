"""A comparison as one HTML page that needs no other file."""

import base64
from dataclasses import dataclass

import jinja2

from imaging_pipeline.comparison.compare import Change, LabelRow
from imaging_pipeline.comparison.summary import summaries

_TEMPLATE = """\
<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ names[0] }} and {{ names[1] }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .2rem .8rem; text-align: right }
th { border-bottom: 1px solid #999 } td:first-child, th:first-child, .words td { text-align: left }
img { max-width: 100% } .note { color: #666 }
</style>
<h1>{{ names[0] }} and {{ names[1] }}</h1>
<p>{{ n_series }} series with a mask on both sides{% if n_others %}; {{ n_others }} without{% endif %}.
{{ changes | length }} verdicts differ. Not for clinical use.</p>
<h2>Labels</h2>
<table><tr><th>label</th><th>series</th><th>Dice, mean</th><th>lowest</th><th>surface distance, mean mm</th>
<th>95 % Hausdorff, largest mm</th><th>volume drift, mean ml</th><th>limits of agreement, ml</th></tr>
{% for item in labels %}<tr><td>{{ item.name }}</td><td>{{ item.n_series }}</td><td>{{ item.dice | figure }}</td>
<td>{{ item.lowest_dice | figure }}</td><td>{{ item.mean_surface_mm | figure }}</td>
<td>{{ item.hausdorff95_mm | figure }}</td><td>{{ item.bias_ml | figure }}</td>
<td>{{ item.low_ml | figure }} to {{ item.high_ml | figure }}</td></tr>
{% endfor %}</table>
{% if plot %}<h2>Volumes</h2>
<p class="note">Each point is a series. Good looks like this: points close to 0, without a slope. Lines: mean difference
and the limits within which 95 % of differences lie.</p>
<img alt="Differences of volumes over their means" src="data:image/png;base64,{{ plot }}">{% endif %}
{% if changes %}<h2>Other verdicts</h2>
<table class="words"><tr><th>series</th><th>column</th><th>{{ names[0] }}</th><th>{{ names[1] }}</th></tr>
{% for item in changes %}<tr><td>{{ item.series_a }}</td><td>{{ item.column }}</td><td>{{ item.first or "none" }}</td>
<td>{{ item.second or "none" }}</td></tr>
{% endfor %}</table>{% endif %}
<h2>Series</h2>
<table><tr><th>series</th><th>label</th><th>ml, {{ names[0] }}</th><th>ml, {{ names[1] }}</th><th>Dice</th>
<th>surface, mm</th><th>95 % Hausdorff, mm</th></tr>
{% for row in rows %}<tr><td>{{ row.series_a }}</td><td>{{ row.name }}</td><td>{{ row.volume_a_ml | figure }}</td>
<td>{{ row.volume_b_ml | figure }}</td><td>{{ row.dice | figure }}</td><td>{{ row.mean_surface_mm | figure }}</td>
<td>{{ row.hausdorff95_mm | figure }}</td></tr>
{% endfor %}</table>
</html>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a comparison found.

    Attributes:
        names: What the first and the second are called.
        rows: Labels of series.
        changes: Verdicts that differ.
        n_series: Series with a mask on both sides.
        n_others: Series of either side without a counterpart, or without a mask there.
    """

    names: tuple[str, str]
    rows: list[LabelRow]
    changes: list[Change]
    n_series: int
    n_others: int


def as_page(found: Comparison, plot: bytes) -> str:
    """The page; all that comes from data is escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["figure"] = figure
    return environment.from_string(_TEMPLATE).render(
        names=found.names,
        labels=summaries(found.rows),
        rows=found.rows,
        changes=found.changes,
        n_series=found.n_series,
        n_others=found.n_others,
        plot=base64.b64encode(plot).decode(),
    )


def figure(value: float | None) -> str:
    """A number with three decimals; n/a for none."""
    return "n/a" if value is None else f"{value:.3f}"
