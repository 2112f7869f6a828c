"""Real input: images that other tools made, real processes, real faults of the machine."""
