"""The tasks, their base classes and wrappers; importing the package registers the tasks."""

import lazy_loader

from steerlab.envs.tasks import TASKS as TASKS, register as register

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

register()
