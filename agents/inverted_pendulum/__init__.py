"""Chunk policies on the inverted pendulum: data, ensembles, sampling, episodes and their figures."""
