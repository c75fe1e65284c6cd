"""Adapters, one a toolkit: their object to arrays, to a system's prediction, to their object."""
