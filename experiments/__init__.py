"""Runnable studies, one a file: each connects the other subpackages and holds nothing else."""
