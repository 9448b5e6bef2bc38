"""Benchmarks, tables, figures and the report of a run."""
