"""The passes, one file each; `scheduler/lower.py` lists them in order."""
