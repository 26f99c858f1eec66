"""Learners and controllers: a model, how to train it, and classical baselines."""
