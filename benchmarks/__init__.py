"""Benchmarks, and the tables of published results. docs/performance.md describes `benchmarks.speed` and `.startup`."""
