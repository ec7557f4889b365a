"""Raw questions by libc's resolver, some of which nobody answers: those are in the way of no other."""

import ctypes
import threading

# Before glibc 2.34 a library of its own; what a linked program would find is in no single library.
ctypes.CDLL("libresolv.so.2", ctypes.RTLD_GLOBAL)
LIBC = ctypes.CDLL(None)
QUICK, SILENT, TXT = b"text.test", b"x.silent.test", 16
silent = [threading.Event() for _ in range(8)]


def ask(name):
    room = ctypes.create_string_buffer(4096)
    return LIBC.res_query(name, 1, TXT, room, len(room))


def ask_silent(answered):
    ask(SILENT)
    answered.set()


for event in silent:
    threading.Thread(target=ask_silent, args=(event,), daemon=True).start()
lengths = {ask(QUICK) for _ in range(30)}
print("answers of", *lengths, "bytes;", sum(event.is_set() for event in silent), "silent ones ended before them")
