"""Models into a checkout of openpilot or sunnypilot: recognised, checked, tried, backed up, undone.

:func:`~steerlab.exporters.install.targets.recognise` says what a folder is and which contract it
needs, :func:`~steerlab.exporters.install.plan.prepare` what would change,
:func:`~steerlab.exporters.install.install.install` changes it, and
:func:`~steerlab.exporters.install.backup.restore` takes it back.
"""

from steerlab.exporters.install.backup import backups, restore
from steerlab.exporters.install.install import Installed, install, running_modeld
from steerlab.exporters.install.plan import Given, Plan, prepare
from steerlab.exporters.install.targets import Target, recognise

__all__ = [
    "Given",
    "Installed",
    "Plan",
    "Target",
    "backups",
    "install",
    "prepare",
    "recognise",
    "restore",
    "running_modeld",
]
