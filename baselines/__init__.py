"""Baselines: one file a method. Found by name through ``aimbench.train.registry``."""
