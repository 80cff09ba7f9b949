package discovery

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/pantala/pantala/blob"
)

// The multicast groups of BEP 14, administratively scoped to the site.
const (
	group4 = "239.192.152.143"
	group6 = "ff15::efc0:988f"
	// lsdPort is the port of both groups.
	lsdPort = 6771
)

// maxAnnounce is the longest packet that BEP 14 allows, in bytes: less than an Ethernet frame.
const maxAnnounce = 1400

// maxKeys is how many keys one packet may name: what fits beside 200 bytes of the other lines.
const maxKeys = (maxAnnounce - 200) / (len("Infohash: \r\n") + 40)

// announce is a packet of local discovery: who sends it shares these keys at this port of the address that it
// comes from.
type announce struct {
	port   uint16
	keys   [][20]byte
	cookie string // by which senders know their own packets
}

// appendAnnounce writes the packet. It is an HTTP request in form only.
func appendAnnounce(b []byte, group string, a announce) []byte {
	b = fmt.Appendf(b, "BT-SEARCH * HTTP/1.1\r\nHost: %s:%d\r\nPort: %d\r\n", group, lsdPort, a.port)
	for _, k := range a.keys {
		b = fmt.Appendf(b, "Infohash: %x\r\n", k)
	}
	return fmt.Appendf(b, "cookie: %s\r\n\r\n\r\n", a.cookie)
}

// parseAnnounce reads a packet. Lines it does not know are skipped, and so is an infohash of 32 bytes, which only
// means something beside the truncated one. Errors are of class blob.ErrInvalid.
func parseAnnounce(b []byte) (a announce, err error) {
	if len(b) > maxAnnounce {
		return a, fmt.Errorf("%w: announce of %d bytes, at most %d are read", blob.ErrInvalid, len(b), maxAnnounce)
	}
	head, rest, ok := bytes.Cut(b, []byte("\r\n"))
	if !ok || string(head) != "BT-SEARCH * HTTP/1.1" {
		return a, fmt.Errorf("%w: %.20q does not begin an announce", blob.ErrInvalid, b)
	}
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, ok := strings.Cut(string(line), ":")
		if !ok {
			continue // the empty lines at the end
		}
		value = strings.TrimSpace(value)
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "port":
			port, err := strconv.ParseUint(value, 10, 16)
			if err != nil || port == 0 {
				return announce{}, fmt.Errorf("%w: announce with port %.10q", blob.ErrInvalid, value)
			}
			a.port = uint16(port)
		case "infohash":
			var k [20]byte
			if len(value) != 40 {
				continue
			}
			if _, err := hex.Decode(k[:], []byte(value)); err != nil {
				return announce{}, fmt.Errorf("%w: announce with infohash %q", blob.ErrInvalid, value)
			}
			if len(a.keys) < maxKeys {
				a.keys = append(a.keys, k)
			}
		case "cookie":
			a.cookie = value
		}
	}
	if a.port == 0 || len(a.keys) == 0 {
		return announce{}, fmt.Errorf("%w: announce without a port or infohash", blob.ErrInvalid)
	}
	return a, nil
}
