"""CarlaDriver-v0: KinematicDriver's car on road maps, with traffic, signals and weather."""
