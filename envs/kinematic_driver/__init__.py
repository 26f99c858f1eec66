"""KinematicDriver-v0: a domain-randomised driver with openpilot's actuation in the loop."""
