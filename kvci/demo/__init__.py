"""The calibration model, its twin, and an experiment with a known answer."""
