"""Small problems in PyTorch, on which the code of the gallery's PyTorch tabs is run.

Each function gets the code of one side of a page, Wrong or Right, and a seed. It sets up what the
code needs, by the names that the code uses, executes it, and returns one number: the symptom.
"""
