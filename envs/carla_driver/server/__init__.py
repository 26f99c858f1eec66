"""CarlaDriver on a CARLA server: launching it, talking to it, and the backend of the task."""
