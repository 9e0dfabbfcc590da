"""The record folder: what a contest asks for, made from finished runs and from nothing else.

Every number in it is read from a run's files; what a run did not measure has no line.
"""
