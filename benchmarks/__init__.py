"""How fast we and the others are: `python -m benchmarks.speed` and `benchmarks.startup`; see docs/performance.md."""
