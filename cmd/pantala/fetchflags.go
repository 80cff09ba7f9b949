package main

import (
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/net/http/httpguts"

	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/node"
)

// fetchFlags are the flags of every command that reads from an origin. Those that are keys of the
// configuration are read through it.
type fetchFlags struct {
	header  []string
	mirrors []string
	digest  string
	rate    string
	tenant  string
}

func (f *fetchFlags) add(flags *pflag.FlagSet, fill bool) {
	flags.SortFlags = false
	flags.StringVar(&f.digest, "digest", "", "sha256:HEX that all bytes together must have")
	flags.StringArrayVarP(&f.header, "header", "H", nil, "request header for the origin, 'Name: value'; may be repeated")
	flags.StringArrayVar(&f.mirrors, "mirror", nil, "another URL of the same object, used when the first fails; may be repeated")
	flags.String("cacert", "", "PEM file of certificates that the origin may use besides the system's")
	if fill {
		flags.String("fill", "", "how bytes that nobody reads are fetched: never, idle or eager (default idle)")
	}
	flags.String("timeout", "", "how long a read waits for somebody who can deliver (default 30s)")
	addPlace(flags)
	flags.StringVar(&f.rate, "limit-rate", "", "bytes per second of this blob that may come, and as many that may go, such as 20MB")
	flags.StringVar(&f.tenant, "tenant", "", "whose limits it counts against besides the machine's: see pantala limits --help")
	addLimits(flags)
	addDiscovery(flags)
	flags.Bool("hard", false, "reads wait for ever instead")
	flags.Bool("strict", false, "believe no hash that only the tracker vouches for")
}

// options are what the node is asked for. What nobody set is left to the node.
func (f *fetchFlags) options(c config.Config) (o control.Options, err error) {
	o = control.Options{Digest: f.digest, Mirrors: f.mirrors, Hard: c.Hard, Strict: c.Strict}
	if c.From("fill") != "" {
		o.Fill = c.Fill
	}
	if c.From("timeout") != "" {
		o.Timeout = c.Timeout
	}
	if c.From("tracker") != "" {
		o.Trackers = c.Trackers
	}
	if c.CACert != "" {
		if o.CACert, err = filepath.Abs(c.CACert); err != nil {
			return o, control.Local(err)
		}
	}
	o.Tenant = f.tenant
	if o.LimitRate, err = parseRate(f.rate); err != nil {
		return o, err
	}
	o.Header, err = parseHeaders(f.header)
	return o, err
}

// addPlace adds the flags that say where the machine stands and what it is in a swarm.
func addPlace(flags *pflag.FlagSet) {
	flags.String("zone", "", "where this machine stands, widest part first, such as eu/zone-a/rack-7/host-3: what is near is read first")
	flags.String("role", "", "peer, or seed: fetch all of what is mounted or shared here at once (--fill eager, unless --fill says otherwise), and be the one that reads it from the origin while others want it too; give a seed a large --quota (default peer)")
}

// addRegistries adds the flags that say how registries of images are spoken to.
func addRegistries(flags *pflag.FlagSet) {
	flags.String("plain-http", "", "registries that are spoken to without TLS, HOST[:PORT], separated by commas; those on this machine always are")
	flags.String("certs-dir", "", "directories of hosts.toml files, with mirrors and certificates of registries, separated by colons (default /etc/containerd/certs.d:/etc/docker/certs.d)")
	flags.String("docker-config", "", "directory of docker's config.json, with credentials (default $DOCKER_CONFIG, else ~/.docker)")
	flags.String("index-keys", "", "files of public keys, separated by commas: indexes of layers that one of them has signed are taken from the registry")
}

// addImageMount adds the flag that says how images are mounted.
func addImageMount(flags *pflag.FlagSet) {
	flags.String("image-mount", "", "how images are mounted: devices (EROFS over files, Linux 6.12), loop (EROFS through a loop device), files (name by name, without EROFS), or auto, the first of these that pantala doctor finds possible (default auto)")
}

// addDiscovery adds the flags that say where peers are looked for beside trackers, and how they are spoken with.
func addDiscovery(flags *pflag.FlagSet) {
	flags.String("compress", "", "on or off: between peers of ours, compress what gets shorter when the link is slow (default on)")
	flags.String("pex", "", "on or off: learn peers from peers (default on)")
	flags.String("lsd", "", "on, off or auto: find peers on the local network by multicast; auto is on unless --listen is loopback (default auto)")
	flags.String("dht", "", "on or off: find peers in the distributed hash table of BitTorrent (default off)")
	flags.Lookup("dht").NoOptDefVal = config.On
	flags.String("dht-bootstrap", "", "nodes of the distributed hash table to start from, HOST:PORT, separated by commas")
}

// parseHeaders reads 'Name: value' lines. Values are secrets: no error shows one.
func parseHeaders(lines []string) (http.Header, error) {
	var h http.Header
	for i, l := range lines {
		name, value, ok := strings.Cut(l, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return nil, usagef("header %d is not 'Name: value': for example -H 'Authorization: Bearer TOKEN'", i+1)
		}
		if h == nil {
			h = http.Header{}
		}
		h.Add(name, value)
	}
	return h, nil
}

// checkDigest finds a malformed digest before anything is started.
func (f *fetchFlags) checkDigest() error {
	if _, err := node.ParseDigest(f.digest); err != nil {
		return usagef("--digest: %w: sha256sum FILE prints the 64 hexadecimal digits that follow sha256:", err)
	}
	return nil
}

// expect are the settings of a whole node that this command line names.
func expect(c config.Config) []control.Setting {
	var all []control.Setting
	whole := c.Whole()
	for _, key := range slices.Sorted(maps.Keys(whole)) {
		if from := c.From(key); strings.HasPrefix(from, "flag ") {
			all = append(all, control.Setting{Key: key, Value: whole[key], From: from})
		}
	}
	return all
}
