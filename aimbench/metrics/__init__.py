"""Accuracy by group, where the model looked, and whether a difference is more than noise.

``groups``, ``statistics`` and ``selectors`` need numpy and scipy alone; ``epg``,
``attribution`` and ``health`` work on torch tensors.
"""
