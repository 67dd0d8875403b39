"""SQL over the tables of a RESULTS, and over nothing else."""

from typing import TYPE_CHECKING

import pyarrow as pa

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.results.reading import read_all_measurements, read_reviews, read_series
from imaging_pipeline.stores import Store

if TYPE_CHECKING:
    import duckdb

FAILED = """\
SELECT series_key, model_name, modality, reason_code, message, hint
FROM series WHERE status = 'failed' ORDER BY reason_code, series_key"""

SLOWEST = """\
SELECT series_key, model_name, round(list_sum(map_values(stage_seconds)), 3) AS seconds,
       stage_seconds['decode'] AS decode, stage_seconds['preprocess'] AS preprocess,
       stage_seconds['network'] AS network, stage_seconds['postprocess'] AS postprocess,
       stage_seconds['measure'] AS measure, stage_seconds['write'] AS write,
       list_product(shape)::BIGINT AS voxels, peak_rss_mb, device
FROM series WHERE status = 'done' ORDER BY seconds DESC LIMIT 20"""

VOLUMES = """\
SELECT model_name, label, name, count(*) FILTER (n_voxels > 0) AS found, count(*) AS masks,
       round(avg(volume_ml) FILTER (n_voxels > 0), 3) AS mean_ml,
       round(stddev_samp(volume_ml) FILTER (n_voxels > 0), 3) AS sd_ml,
       round(min(volume_ml) FILTER (n_voxels > 0), 3) AS min_ml,
       round(median(volume_ml) FILTER (n_voxels > 0), 3) AS median_ml,
       round(max(volume_ml) FILTER (n_voxels > 0), 3) AS max_ml
FROM measurements GROUP BY ALL ORDER BY model_name, label"""

FLAGS = """\
SELECT series_key, model_name, flag.code, flag.message, flag.hint
FROM series, unnest(flags) AS found(flag) WHERE status = 'done' ORDER BY flag.code, series_key"""

_READING = {"SELECT", "EXPLAIN"}
"""DuckDB's kinds of statements that change nothing; DESCRIBE and SUMMARIZE are of the first."""

_MISSING = "duckdb is not installed"


def ask(out: Store, sql: str) -> pa.Table:
    """What a query gives over the views `series`, `measurements` and `reviews`.

    DuckDB holds them in memory. It may neither open a file nor the network, nor be told otherwise by the query.

    Args:
        out: RESULTS.
        sql: One statement, or several: the rows are those of the last.

    Raises:
        PipelineError: `extra-missing`, `query-invalid`, `results-not-found`, `index-damaged` or `store-unreachable`.
    """
    try:
        import duckdb
    except ImportError:
        raise PipelineError(Code.EXTRA_MISSING, _MISSING, "pip install 'imaging-pipeline[query]'") from None
    tables = {"series": read_series(out), "measurements": read_all_measurements(out), "reviews": read_reviews(out)}
    with duckdb.connect(config={"enable_external_access": "false"}) as connection:
        for name, table in tables.items():
            connection.register(name, table)
        connection.execute("SET python_enable_replacements = false; SET lock_configuration = true")
        try:
            kinds = {statement.type.name for statement in connection.extract_statements(sql)}
            found = connection.sql(sql) if kinds <= _READING else None
        except duckdb.Error as error:
            raise _refused(error, tables) from None
        if found is None:
            raise PipelineError(
                Code.QUERY_INVALID, f"{sql!r} asks for no rows", "write a SELECT: queries read, and change nothing"
            )
        return _fetched(found, tables)


def _fetched(found: "duckdb.DuckDBPyRelation", tables: dict[str, pa.Table]) -> pa.Table:
    import duckdb

    try:
        return pa.table(found.to_arrow_table())
    except duckdb.Error as error:
        raise _refused(error, tables) from None


def _refused(error: Exception, tables: dict[str, pa.Table]) -> PipelineError:
    text = " ".join(str(error).split())[:300]
    if "disabled by configuration" in text:
        hint = "a query reads series, measurements and reviews alone; --csv, --json or --parquet write rows"
        return PipelineError(Code.QUERY_INVALID, text, hint)
    columns = "; ".join(f"{name}: {', '.join(table.column_names[:12])}, ..." for name, table in tables.items())
    return PipelineError(Code.QUERY_INVALID, text, f"views and columns are {columns}; DESCRIBE series names all")
