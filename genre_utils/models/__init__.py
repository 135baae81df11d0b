"""The compared systems and their cross-validation."""
