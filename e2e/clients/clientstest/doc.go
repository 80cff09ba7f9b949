// Package clientstest runs the BitTorrent clients and trackers that other people use, as the programs that their
// users run: the ones that Debian packages (libtorrent through Python, aria2, Transmission, qBittorrent, opentracker)
// and a small one around anacrolix/torrent. Tests exchange files with them; benchmarks race them.
//
// # Place
//
// Beside e2etest, on which it builds: each client runs on a host of an [e2etest.Net], with every kind of discovery
// but trackers switched off, and reaches nothing outside of that network.
//
// # Goroutines
//
// Those of e2etest, one per child.
//
// # Locks
//
// None.
//
// # Errors
//
// A client that is not installed is a matter of [e2etest.Need]. What a client complains of is in its output, which
// tests show when they fail.
package clientstest
