"""A libtorrent node with DHT and local discovery, driven by lines.

usage: libtorrent_dht.py BOOTSTRAP_HOST BOOTSTRAP_PORT INFOHASH
Prints "listen PORT", then "peer IP:PORT" for every peer of INFOHASH that the DHT names.
Reads "announce" and "get"; ends with its input.
"""
import select
import sys
import tempfile
import time

import libtorrent as lt

host, port, infohash = sys.argv[1], int(sys.argv[2]), sys.argv[3]
s = lt.session({
    "listen_interfaces": "127.0.0.1:0", "enable_dht": True, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
    "dht_bootstrap_nodes": f"{host}:{port}", "dht_restrict_routing_ips": False, "dht_restrict_search_ips": False,
    "dht_prefer_verified_node_ids": False, "alert_mask": lt.alert.category_t.all_categories,
})
s.add_dht_node((host, port))
told, handle = False, None
end = time.time() + 60
while time.time() < end:
    if not told and s.listen_port():
        told = True
        print("listen", s.listen_port(), flush=True)
    if select.select([sys.stdin], [], [], 0.05)[0]:
        line = sys.stdin.readline()
        if not line:
            break
        word = line.split()
        if word[0] == "announce":
            # The binding of dht_announce lacks the type of its flags: a torrent announces itself, at the listening port.
            if handle is None:
                p = lt.parse_magnet_uri("magnet:?xt=urn:btih:" + infohash)
                p.save_path = tempfile.gettempdir()
                handle = s.add_torrent(p)
            handle.force_dht_announce()
        elif word[0] == "get":
            s.dht_get_peers(lt.sha1_hash(bytes.fromhex(infohash)))
    for a in s.pop_alerts():
        if isinstance(a, lt.dht_get_peers_reply_alert):
            for p in a.peers():
                print("peer", "%s:%d" % (p[0], p[1]), flush=True)
        elif isinstance(a, lt.dht_bootstrap_alert):
            print("bootstrap", flush=True)
