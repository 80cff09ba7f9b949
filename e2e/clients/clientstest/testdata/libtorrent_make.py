"""Makes a torrent with libtorrent 2.

usage: libtorrent_make.py v1|v2|hybrid PATH OUT PIECE_LENGTH [TRACKER...]

Prints a JSON object: v1 and v2 (infohashes in hexadecimal, "" when the torrent has none), magnet.
"""
import json
import os
import sys

import libtorrent as lt

kind, path, out, piece = sys.argv[1:5]
files = lt.file_storage()
lt.add_files(files, path)
flags = {"v1": lt.create_torrent.v1_only, "v2": lt.create_torrent.v2_only, "hybrid": 0}[kind]
made = lt.create_torrent(files, int(piece), flags)
for tier, url in enumerate(sys.argv[5:]):
    made.add_tracker(url, tier)
lt.set_piece_hashes(made, os.path.dirname(path))
with open(out, "wb") as f:
    f.write(lt.bencode(made.generate()))
info = lt.torrent_info(out)
hashes = info.info_hashes()
print(json.dumps({
    "v1": str(hashes.v1) if hashes.has_v1() else "",
    "v2": str(hashes.v2) if hashes.has_v2() else "",
    "magnet": lt.make_magnet_uri(info),
}))
