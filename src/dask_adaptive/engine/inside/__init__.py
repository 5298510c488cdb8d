"""What the plug-in inside of the Dask scheduler consists of.

These files travel to the scheduler as text, with ``plugin.py``, and are executed there, under whatever Python and
``distributed`` the scheduler has. They import the standard library, ``distributed``, ``tornado`` and each other, and
answer in values that msgpack can carry.
"""
