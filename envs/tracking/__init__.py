"""Tracking tasks: a plant goes from a state to a target at quadratic cost, input bounded."""
