"""Methods of their own: one folder each. Found by name through ``aimbench.train.registry``."""
