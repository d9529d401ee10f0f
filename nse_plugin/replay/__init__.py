"""Run only the part of a model that an edit can change.

Nothing here knows an architecture: layers are called with the arguments that the model itself gave them, and the final
norm and head are the model's own code.
"""
