"""Studies: comparisons of runs, the papers' tables, reports, maps, and benchmarks."""
