"""A libtorrent 2 client with its default settings, all discovery but trackers switched off.

usage: libtorrent_peer.py TORRENT FOLDER ADDRESS:PORT [tcp]

TORRENT is a file or a magnet link. Prints "READY" when it listens, waits for a line "go" on standard input, adds the
torrent, and prints "DONE unix-time" when it has everything, verified. A line "stat" is answered by "STAT uploaded
downloaded", bytes of payload. Ends when standard input is closed. With "tcp" it does not use uTP.
"""
import queue
import sys
import threading
import time

import libtorrent as lt

tcp = {"enable_outgoing_utp": False, "enable_incoming_utp": False} if sys.argv[4:] == ["tcp"] else {}
session = lt.session(tcp | {
    "listen_interfaces": sys.argv[3],
    "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
    "alert_mask": lt.alert.category_t.error_notification | lt.alert.category_t.status_notification,
})
while session.listen_port() == 0:
    session.wait_for_alert(50)
    session.pop_alerts()
print("READY", flush=True)

lines = queue.Queue()


def read():
    for line in sys.stdin:
        lines.put(line.strip())
    lines.put("end")


threading.Thread(target=read, daemon=True).start()
if lines.get() != "go":
    sys.exit(0)
if sys.argv[1].startswith("magnet:"):
    params = lt.parse_magnet_uri(sys.argv[1])
else:
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(sys.argv[1])
params.save_path = sys.argv[2]
params.flags &= ~lt.torrent_flags.auto_managed
params.flags &= ~lt.torrent_flags.paused
handle = session.add_torrent(params)

done = False
while True:
    session.wait_for_alert(20 if not done else 200)
    for alert in session.pop_alerts():
        if isinstance(alert, (lt.hash_failed_alert, lt.torrent_error_alert, lt.file_error_alert)):
            print("FAILED", alert.message(), flush=True)
    if not done and handle.status().is_seeding:
        done = True
        print("DONE", time.time(), flush=True)
    try:
        line = lines.get_nowait()
    except queue.Empty:
        continue
    if line == "end":
        break
    if line == "stat":
        status = handle.status()
        print("STAT", status.total_payload_upload, status.total_payload_download, flush=True)
