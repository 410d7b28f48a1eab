"""Suites of data sets and defences, and the tables made of their answers."""
