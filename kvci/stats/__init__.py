"""Pure functions of numbers; they know nothing about trials."""
