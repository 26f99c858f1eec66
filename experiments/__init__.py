"""Runnable studies, one a file: each wires the rooms below and holds nothing else."""
