"""The only package that imports pyspark."""

from imaging_pipeline.spark.jobs import SparkRunner
from imaging_pipeline.spark.session import open_session

__all__ = ["SparkRunner", "open_session"]
