# People who ask without a pause, each with a header of their own: HOST PORT USER... Every second request of one opens a
# new connection. Says after every 100 requests, as JSON, how many of whose were answered by whom; ends with its standard
# input, and says so once more.
import collections
import http.client
import json
import sys
import threading

host, port, users = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
counted = {user: collections.Counter() for user in users}
lock = threading.Lock()
ended = threading.Event()


def ask(user):
    connection = None
    number = 0
    while not ended.is_set():
        number += 1
        try:
            if connection is None or number % 2:
                connection = http.client.HTTPConnection(host, port, timeout=30)
            connection.request("GET", f"/n{number}", headers={"X-User": user})
            who, path = connection.getresponse().read().decode().split()[:2]
            assert path == f"/n{number}", f"{path} for {number}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            who, connection = f"{'kept' if number % 2 == 0 else 'new'}: {error!r}", None
        with lock:
            counted[user][who] += 1
            if sum(map(sum, (count.values() for count in counted.values()))) % 100 == 0:
                print(json.dumps(counted), flush=True)


threads = [threading.Thread(target=ask, args=(user,)) for user in users]
for thread in threads:
    thread.start()
sys.stdin.read()
ended.set()
for thread in threads:
    thread.join()
print(json.dumps(counted), flush=True)
