"""comma's TinyPhysics: follow a target lateral acceleration through a learned plant."""
