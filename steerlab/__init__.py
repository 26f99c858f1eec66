"""Gymnasium tasks for driving control, agents that learn them, and exporters for openpilot.

Importing the package registers its tasks with gymnasium::

    import gymnasium as gym
    import steerlab

    env = gym.make("TinyPhysics-v0")

The five subpackages are ``surrogates``, ``envs``, ``agents``, ``exporters`` and ``experiments``; each
imports only those before it in this list. What all of them need, such as :mod:`steerlab.errors`,
:mod:`steerlab.files` and :mod:`steerlab.openpilot`, imports none of them.
"""

__version__ = "0.1.0"

from steerlab import envs as envs
