"""Instances: SWE-bench rows, and the generated instances of the calibration suite."""
