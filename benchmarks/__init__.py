"""Speed and memory of this project beside its peers; ``tools/benchmark.py`` runs it from a checkout."""
