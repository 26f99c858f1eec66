"""Gymnasium tasks for driving control, agents that learn them, and exporters for openpilot.

Importing the package registers its tasks with gymnasium::

    import gymnasium as gym
    import steerlab

    env = gym.make("TinyPhysics-v0")

The five rooms are ``surrogates``, ``exporters``, ``envs``, ``agents`` and ``experiments``; a room
imports only rooms before it in that list. :mod:`steerlab.errors` and :mod:`steerlab.files` are the
ground they all stand on.
"""

__version__ = "0.1.0"

from steerlab import envs as envs
