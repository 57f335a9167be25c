"""Experiments that are run for real and whose numbers are in the docs: each module is a program that writes a CSV."""
