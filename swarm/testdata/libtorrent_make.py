"""Makes a torrent with libtorrent for the interoperability tests.

usage: libtorrent_make.py v1|v2|hybrid PIECE_LENGTH PATH TORRENT
"""
import os
import sys

import libtorrent as lt

kind, piece, path, out = sys.argv[1], int(sys.argv[2]), os.path.abspath(sys.argv[3]), sys.argv[4]
flags = {"v1": lt.create_torrent.v1_only, "v2": lt.create_torrent.v2_only, "hybrid": 0}[kind]
files = lt.file_storage()
lt.add_files(files, path)
torrent = lt.create_torrent(files, piece, flags)
lt.set_piece_hashes(torrent, os.path.dirname(path))
with open(out, "wb") as f:
    f.write(lt.bencode(torrent.generate()))
