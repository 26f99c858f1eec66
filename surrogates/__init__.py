"""Route segments, logs, and the learned plant models with their runtimes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
