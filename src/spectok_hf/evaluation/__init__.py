"""Measuring what a model has learned, always beside a plain baseline."""
