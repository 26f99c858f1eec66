"""Maps the five root folders to ``steerlab.*``; everything else is in pyproject.toml.

pyproject alone cannot put a prefix before found packages, and naming them one by one would
silently leave out a new nested package.
"""

from setuptools import find_packages, setup

FOLDERS = ("agents", "envs", "experiments", "exporters", "surrogates")
found = find_packages(include=[pattern for f in FOLDERS for pattern in (f, f + ".*")])
setup(
    packages=[
        *find_packages(
            include=["steerlab", "steerlab.openpilot*", "steerlab.readers*", "steerlab.doctor*"]
        ),
        *("steerlab." + package for package in found),
    ],
    package_dir={"steerlab": "steerlab", **{"steerlab." + f: f for f in FOLDERS}},
)
