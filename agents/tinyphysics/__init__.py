"""A learned controller for TinyPhysics: network, training, planners, and a small trained one."""

from pathlib import Path

#: A small controller trained on simulated cars; ``steerlab_controller.md`` beside it is its card.
SHIPPED = Path(__file__).with_name("steerlab_controller.py")
