"""Readers of files that a stranger may have written.

Every one of them has limits on size, depth and memory, and raises nothing but
:class:`~steerlab.errors.InputError`. None of them executes what it reads.
"""
