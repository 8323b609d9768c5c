"""Where instances come from: SWE-bench rows and the calibration suite."""
