"""Pure functions of numbers; nothing here knows what a trial is."""
