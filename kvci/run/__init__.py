"""Run all trials of one specification, grade patches, and forecast what a run can show."""
