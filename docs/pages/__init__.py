"""The pages of docs/ that are generated from the code.

`python -m docs.pages` writes them all; a test compares each with what is committed.
"""
