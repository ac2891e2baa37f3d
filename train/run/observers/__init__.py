"""Services that a run reports to beside its own folder, each in a process of its own.

`base` says what one is, `registry` has those that are known by name, `process` is a run's side of
such a process and `child` its own.
"""
