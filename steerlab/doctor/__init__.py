"""What an installation lacks, each piece with its remedy.

Checks look and change nothing. Each returns findings; the study ``doctor`` prints them.
"""

from steerlab.doctor.base import NOTE, OK, WRONG, Finding
from steerlab.doctor.carla import carla_findings
from steerlab.doctor.machine import compiler, gpus, torch_build
from steerlab.doctor.packages import extras, package_findings, python_version
from steerlab.doctor.places import cache_findings, disk, writable

__all__ = [
    "NOTE",
    "OK",
    "WRONG",
    "Finding",
    "cache_findings",
    "carla_findings",
    "compiler",
    "disk",
    "extras",
    "gpus",
    "package_findings",
    "python_version",
    "torch_build",
    "writable",
]
