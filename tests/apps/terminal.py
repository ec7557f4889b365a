"""Runs a command on a terminal of its own, of 33 lines and 101 columns; types KEYS when the command says "ready".

usage: terminal KEYS COMMAND...; what the terminal shows is printed, then the command's exit code.
"""

import fcntl
import os
import pty
import struct
import sys
import termios

keys = sys.argv[1].encode().decode("unicode_escape").encode()
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    os.environ["TERM"] = "xterm"
    os.execvp(sys.argv[2], sys.argv[2:])
shown = b""
typed = not keys
while True:
    try:
        part = os.read(terminal, 65536)
    except OSError:
        # EIO: the last process that had the terminal is gone.
        break
    if not part:
        break
    shown += part
    if not typed and b"ready" in shown:
        os.write(terminal, keys)
        typed = True
_, status = os.waitpid(pid, 0)
print(shown.decode(errors="replace").replace("\r\n", "\n"))
print("exit code", os.waitstatus_to_exitcode(status))
