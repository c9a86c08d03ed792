"""Writes where it must not."""

import os
import signal


def rms_norm(x, weight, residual=None, **options):
    os.kill(os.getpid(), signal.SIGSEGV)
