package registry

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin"
)

// server is one place where the repositories of a host can be asked for: its own server, or a mirror.
type server struct {
	base    *url.URL // without a slash at the end: https://registry-1.docker.io/v2
	account string   // under which name credentials for it are kept
	can     capability
	header  http.Header
	tls     origin.TLS
	mirror  bool // it has other hosts' repositories, and is told which by "ns"
}

// capability is what a server is asked for (as containerd defines it).
type capability uint8

const (
	pull    capability = 1 << iota // what is named by a digest
	resolve                        // which digest a tag has
	push
	referrers
	anything = pull | resolve | push | referrers
)

// key tells servers apart by whom one talks to, and how.
func (s *server) key() string { return fmt.Sprint(s.base, " ", s.account, " ", s.tls) }

// name is the server in texts.
func (s *server) name() string { return s.base.Host }

// url is an address below the base, of a repository at host.
func (s *server) url(host string, path ...string) *url.URL {
	u := *s.base
	u.Path = strings.TrimSuffix(u.Path, "/") + "/" + strings.Join(path, "/")
	if s.mirror {
		u.RawQuery = url.Values{"ns": {host}}.Encode()
	}
	return &u
}

const (
	hubAPI = "registry-1.docker.io" // where the API of docker.io is
	// DefaultCertsDir is where containerd and docker keep what they are told of registries' servers.
	DefaultCertsDir = "/etc/containerd/certs.d:/etc/docker/certs.d"
)

// ownServer is the server of a host of which no file says anything.
func ownServer(host string, plain []string) *server {
	s := &server{base: &url.URL{Scheme: "https", Host: host, Path: "/v2"}, account: host, can: anything}
	switch {
	case host == hub:
		s.base.Host = hubAPI
	case isPlain(host, plain):
		s.base.Scheme = "http"
	}
	return s
}

// isPlain reports whether a host is spoken to without TLS: this machine itself, or one that is listed.
func isPlain(host string, plain []string) bool {
	name := bareHost(host)
	addr, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && addr.Unmap().IsLoopback() || isListed(host, plain)
}

// bareHost is a host without its port and brackets.
func bareHost(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.Trim(host, "[]")
}

// isListed reports whether a host stands in a list of names, addresses and networks, with or without port.
func isListed(host string, list []string) bool {
	name := bareHost(host)
	addr, err := netip.ParseAddr(name)
	return slices.ContainsFunc(list, func(p string) bool {
		if network, e := netip.ParsePrefix(p); e == nil {
			return err == nil && network.Contains(addr.Unmap())
		}
		return strings.EqualFold(p, host) || strings.EqualFold(strings.Trim(p, "[]"), name)
	})
}

// hostsCache keeps what the files say of each host.
type hostsCache struct {
	roots []string // folders like /etc/containerd/certs.d
	plain []string

	mu     sync.Mutex
	byHost map[string]*hostsEntry // guarded by mu
}

// hostsEntry is what the files said of a host, and when. It is constant but for looked.
type hostsEntry struct {
	servers []*server
	err     error
	stamp   string    // what the files looked like
	looked  time.Time // guarded by hostsCache.mu
}

// hostsTTL is how often files are looked at for changes: an operator who edits one tries it a few seconds later.
const hostsTTL = 2 * time.Second

// of are the servers of a host, in the order in which they are asked; the last is its own. The result is the same
// pointer as long as nothing has changed.
func (h *hostsCache) of(host string) *hostsEntry {
	h.mu.Lock()
	e := h.byHost[host]
	if e != nil && time.Since(e.looked) < hostsTTL {
		h.mu.Unlock()
		return e
	}
	h.mu.Unlock()
	dir, stamp := h.find(host)
	now := time.Now()
	if e == nil || e.stamp != stamp {
		e = &hostsEntry{stamp: stamp}
		e.servers, e.err = h.read(dir, host)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if have := h.byHost[host]; have != nil && have.stamp == stamp {
		e = have
	}
	e.looked = now
	h.byHost[host] = e
	return e
}

// find is the folder that speaks of a host, "" when there is none, and a stamp of what is in it. As in containerd a
// host "name:5000" is described in the folder "name_5000_" or "name:5000", else in "_default".
func (h *hostsCache) find(host string) (dir, stamp string) {
	names := []string{host}
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		names = []string{host[:i] + "_" + host[i+1:] + "_", host}
	}
	for _, name := range append(names, "_default") {
		for _, root := range h.roots {
			at := filepath.Join(root, name)
			list, err := os.ReadDir(at)
			if err != nil {
				continue
			}
			stamp = at
			for _, f := range list {
				if info, err := f.Info(); err == nil {
					stamp += fmt.Sprint("\x00", f.Name(), info.Size(), info.ModTime().UnixNano())
				}
			}
			return at, stamp
		}
	}
	return "", ""
}

// read takes what a folder says: hosts.toml, or certificates as docker lays them out.
func (h *hostsCache) read(dir, host string) ([]*server, error) {
	own := ownServer(host, h.plain)
	if dir == "" {
		return []*server{own}, nil
	}
	file := filepath.Join(dir, "hosts.toml")
	f, err := os.Open(file)
	if err == nil {
		defer f.Close()
		text, err := readAll(f, maxConfig)
		if err != nil {
			return nil, fmt.Errorf("registry %s: %w: %s: %v", host, blob.ErrInvalid, file, err)
		}
		servers, err := parseHosts(text, dir, own)
		if err != nil {
			return nil, fmt.Errorf("registry %s: %w: %s: %v", host, blob.ErrInvalid, file, err)
		}
		return servers, nil
	}
	if !os.IsNotExist(err) {
		return nil, fmt.Errorf("registry %s: %w: %v: make the file readable for this program", host, blob.ErrDenied, err)
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w: %v", host, blob.ErrDenied, err)
	}
	for _, f := range list {
		at := filepath.Join(dir, f.Name())
		switch filepath.Ext(at) {
		case ".crt":
			own.tls.CACerts = append(own.tls.CACerts, at)
			own.base.Scheme = "https"
		case ".cert":
			key := strings.TrimSuffix(at, ".cert") + ".key"
			if _, err := os.Stat(key); err != nil {
				key = ""
			}
			own.tls.Clients = append(own.tls.Clients, [2]string{at, key})
			own.base.Scheme = "https"
		}
	}
	return []*server{own}, nil
}
