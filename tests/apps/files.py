"""Uses a folder as programs use a disk: a database, a file mapped into memory, extended attributes, names.

`files.py FOLDER` says what went well, and leaves the files there.
"""

import mmap
import os
import sqlite3
import sys

os.chdir(sys.argv[1])

base = sqlite3.connect("base.sqlite")
assert base.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
base.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT)")
with base:
    base.executemany("INSERT INTO t VALUES (?, ?)", ((n, str(n) * 9) for n in range(5000)))
other = sqlite3.connect("base.sqlite")
assert other.execute("SELECT count(*), max(n) FROM t").fetchone() == (5000, 4999)
other.close()
base.execute("PRAGMA journal_mode = DELETE")
base.execute("VACUUM")
assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
base.close()

text = b"written through a map"
with open("map", "wb+") as file:
    file.truncate(len(text))
    with mmap.mmap(file.fileno(), len(text)) as shared:
        shared[:] = text
        shared.flush()
    assert os.pread(file.fileno(), 100, 0) == text
    with mmap.mmap(file.fileno(), len(text), access=mmap.ACCESS_READ) as read:
        assert read[:] == text

os.setxattr("map", "user.color", b"blue")
os.setxattr("map", "user.size", b"\0\1")
assert sorted(os.listxattr("map")) == ["user.color", "user.size"]
assert os.getxattr("map", "user.color") == b"blue"
os.removexattr("map", "user.color")
assert os.listxattr("map") == ["user.size"]

os.makedirs("names/a/b")
with open("names/a/b/file", "w") as file:
    os.rename("names/a", "names/c")
    file.write("moved while open")
with open("names/c/b/file") as file:
    assert file.read() == "moved while open"
    os.unlink("names/c/b/file")
    file.seek(0)
    assert file.read() == "moved while open"
os.symlink("c/b", "names/link")
assert os.readlink("names/link") == "c/b" and os.path.isdir("names/link")
with open("names/old", "w") as old, open("names/new", "w") as new:
    new.write("new")
os.replace("names/new", "names/old")
with open("names/old") as file:
    assert file.read() == "new"
try:
    os.rmdir("names/c")
    raise AssertionError("a folder with something in it was removed")
except OSError:
    pass
for name in ("names/link", "names/old"):
    os.unlink(name)
os.rmdir("names/c/b")
os.rename("names/c", "names/deep")

print("a database a map attributes names")
