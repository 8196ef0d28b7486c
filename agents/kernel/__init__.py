"""Kernel interfaces the engine stands on: one file each, with its constants, its structures and their header."""
