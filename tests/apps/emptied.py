"""A program that empties its own environment, behind Python's back, and has libc start a shell."""

import ctypes
import subprocess
import sys

libc = ctypes.CDLL(None)
libc.popen.restype = ctypes.c_void_p
libc.pclose.argtypes = [ctypes.c_void_p]
COMMAND = b"/usr/bin/curl -sS http://backend/"


def gone():
    """LD_PRELOAD, as libc sees it."""
    libc.getenv.restype = ctypes.c_char_p
    return libc.getenv(b"LD_PRELOAD") is None


libc.clearenv()
assert gone()
print("system", libc.system(COMMAND), flush=True)
libc.clearenv()
assert gone()
print("popen", libc.pclose(libc.popen(COMMAND, b"w")), flush=True)
libc.clearenv()
subprocess.run(["/bin/sh", "-c", COMMAND], env={}, check=True)
sys.stdout.flush()
