"""Time-to-train with every second, byte and joule of it accounted for.

Importing this package loads neither torch nor triton.
"""

__version__ = "0.1.0"
