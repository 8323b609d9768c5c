"""Runs all trials of one specification, grades patches, and forecasts what a run can show."""
