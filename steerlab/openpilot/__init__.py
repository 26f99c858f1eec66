"""openpilot's model interface: contracts as data, inputs, outputs, plans, commands, and what runs a model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
