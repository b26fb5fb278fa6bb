"""aimbench: does this classifier look at the object, and does it still work when the background lies?"""

__version__ = "0.1.0"
