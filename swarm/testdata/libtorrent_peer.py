"""A libtorrent 2 peer on loopback for the interoperability tests.

usage: libtorrent_peer.py TORRENT|MAGNET FOLDER [HOST:PORT]

Prints "BROKEN why" when it gives the torrent up, "LISTENING port", connects to HOST:PORT when given, prints "SEEDING" when the torrent is complete and
verified, and ends when its standard input is closed.
"""
import sys
import threading
import time

import libtorrent as lt

# With all categories the bindings crash now and then: an alert is gone when they look at its type.
category = lt.alert.category_t
mask = category.error_notification | category.status_notification | category.storage_notification | category.peer_notification
settings = {
    "listen_interfaces": "127.0.0.1:0",
    "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
    "enable_outgoing_utp": False, "enable_incoming_utp": False,
    "allow_multiple_connections_per_ip": True,
    "alert_mask": category.all_categories if "-v" in sys.argv else mask,
}
session = lt.session(settings)
if sys.argv[1].startswith("magnet:"):
    params = lt.parse_magnet_uri(sys.argv[1])
else:
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(sys.argv[1])
params.save_path = sys.argv[2]
params.flags &= ~lt.torrent_flags.auto_managed
params.flags &= ~lt.torrent_flags.paused
handle = session.add_torrent(params)

ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()

listening = seeding = connected = False
while not ended.is_set():
    session.wait_for_alert(100)
    for alert in session.pop_alerts():
        if "-v" in sys.argv:
            print(alert.what(), alert.message(), file=sys.stderr)
        if isinstance(alert, (lt.hash_failed_alert, lt.peer_ban_alert)):
            print("FAILED", alert.message(), flush=True)
        if isinstance(alert, lt.torrent_error_alert):
            print("BROKEN", alert.message(), flush=True)
        if isinstance(alert, lt.cache_flushed_alert):
            print("SEEDING", flush=True)
    if not listening and session.listen_port() > 0:
        listening = True
        print("LISTENING", session.listen_port(), flush=True)
    status = handle.status()
    if not connected and len(sys.argv) > 3 and status.state in (
            lt.torrent_status.downloading_metadata, lt.torrent_status.downloading, lt.torrent_status.seeding):
        connected = True
        host, port = sys.argv[3].rsplit(":", 1)
        handle.connect_peer((host, int(port)))
    if not seeding and status.is_seeding:
        seeding = True
        handle.flush_cache()  # what it has is not in the files yet
