"""A known sample: the model that truly fixes the calibration suite's bugs, and how it is made."""
