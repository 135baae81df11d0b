"""Clip tables: data sets, labels, folds, duplicates, downloads, the demo corpus."""
