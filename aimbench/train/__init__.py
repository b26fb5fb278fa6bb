"""Training: methods, the loop, checkpoints, evaluation. Authors of methods import ``aimbench.train.api``."""
