"""Experiments whose numbers are in the docs. Each module is a program that writes a CSV."""
