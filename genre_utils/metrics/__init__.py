"""From per-clip predictions to numbers: scores, intervals, claims, sensitivity."""
