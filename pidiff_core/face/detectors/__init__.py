"""Face detectors, each optional."""
